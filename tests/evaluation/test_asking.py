"""Failures of single questions, and batches that memory does not suffice for."""

import asyncio
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from evaluation.scripted import METHODS, ScriptedEngine, load, plan
from jinja2 import TemplateError
from PIL import Image

from adaptvis.config import SteeringConfig
from adaptvis.engine import Answer, Query
from adaptvis.errors import AdaptVisWarning, ConfigError, DataError, PromptError
from adaptvis.evaluation import ErrorLimit, ModelPlan, Record, evaluate, read_records
from adaptvis.evaluation.asking import Asker, Request, first_batch_size
from adaptvis.evaluation.failures import count_failures
from adaptvis.evaluation.summary import summarise
from adaptvis.tasks import Part, Sample, Task

ONE = (ModelPlan("one", "nowhere", METHODS),)


class Limited(ScriptedEngine):
    """Memory for `most` questions; refuses the prompts named; fails with `problem` on others."""

    def __init__(
        self, most: int = 1000, refused: tuple[str, ...] = (), problem: BaseException | None = None
    ) -> None:
        super().__init__()
        self.most, self.refused = most, refused
        self.problem = problem or PromptError("The prompt is longer than the context")
        self.batches: list[int] = []

    def answer(
        self,
        queries: Sequence[Query],
        configs: Sequence[SteeringConfig | None],
        *,
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        self.batches.append(len(queries))
        if len(queries) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if any(query.prompt in self.refused for query in queries):
            raise self.problem
        return super().answer(queries, configs, max_new_tokens=max_new_tokens)


def _missing() -> tuple[Image.Image, ...]:
    raise DataError("mine.jsonl, line 5: image gone.png does not exist")


def _torn() -> tuple[Image.Image, ...]:
    """A picture that opens and breaks off when its pixels are read."""
    content = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(content, format="PNG")
    return (Image.open(io.BytesIO(content.getvalue()[:1000])),)


def _task(broken: dict[int, object]) -> Task:
    def loader(part: Part) -> list[Sample]:
        samples = load(part)
        for index, images in broken.items():
            object.__setattr__(samples[index], "images", images)
        return samples

    return Task("scripted", "", loader, source="scripted")


def _evaluate(folder: Path, engine: ScriptedEngine, **changes: object) -> list[Record]:
    options = {key: changes.pop(key) for key in ("max_errors", "resume") if key in changes}
    evaluate(plan(models=ONE, **changes), lambda m: engine, folder, **options)  # type: ignore[arg-type]
    return read_records(folder / "records.jsonl")


def test_an_unreadable_image_is_recorded_and_the_run_goes_on(tmp_path: Path) -> None:
    whole = _evaluate(tmp_path / "whole", ScriptedEngine())
    task = _task({4: _missing, 50: _torn})
    records = _evaluate(tmp_path / "run", ScriptedEngine(), tasks=(task,))
    assert [r.key for r in records] == [r.key for r in whole]
    failed = [r for r in records if r.error]
    assert [(r.id, r.method) for r in failed] == [
        (f"q{i}", m.name) for i in (4, 50) for m in METHODS
    ]
    assert failed[0].error == "mine.jsonl, line 5: image gone.png does not exist"
    assert failed[3].error.startswith("OSError: image file is truncated")
    for record in failed:
        assert (record.answer, record.correct, record.score) == ("", False, 0)
        assert (record.confidence, record.alpha, record.applied) == (None, 1, False)
    answers = {r.key: r.answer for r in whole}
    assert all(r.answer == answers[r.key] for r in records if not r.error)


def test_failed_questions_count_in_no_accuracy_and_no_gain(tmp_path: Path) -> None:
    task = _task({4: _missing, 50: _torn})
    records = _evaluate(tmp_path / "run", ScriptedEngine(), tasks=(task,))
    summary = summarise(records)
    for accuracy in summary.accuracies_of("one", "scripted", "all"):
        right = [r.correct for r in records if r.method == accuracy.method and not r.error]
        assert len(right) == 98
        assert accuracy.questions == 98
        assert accuracy.accuracy == pytest.approx(sum(right) / 98)
    assert {g.gain.questions for g in summary.gains_of("one", "scripted")} == {98}
    (count,) = count_failures(records)
    assert (count.model, count.task, count.questions, count.errors) == ("one", "scripted", 100, 2)
    assert count.first.endswith("gone.png does not exist")


@pytest.mark.parametrize(
    ("limit", "stopped_at"),
    [(ErrorLimit(0), 1), (ErrorLimit(3, is_share=False), 4), (ErrorLimit(0.025), 4), (None, None)],
)
def test_too_many_errors_stop_the_run_and_keep_its_records(
    tmp_path: Path, limit: ErrorLimit | None, stopped_at: int | None
) -> None:
    # one in each of five batches of 7: 5 of 100 is what the default just allows
    broken: dict[int, object] = dict.fromkeys((3, 10, 17, 24, 31), _missing)
    if stopped_at is None:
        assert len(_evaluate(tmp_path, ScriptedEngine(), tasks=(_task(broken),))) == 300
        return
    message = f"{stopped_at} of the 100 questions .* failed .* --max-errors .* gone.png"
    with pytest.raises(DataError, match=message):
        _evaluate(tmp_path, ScriptedEngine(), tasks=(_task(broken),), max_errors=limit)
    kept = read_records(tmp_path / "records.jsonl")
    assert len(kept) == 3 * 7 * (stopped_at - 1)
    # what failed before still counts, so that a resumed run stops, too
    with pytest.raises(DataError, match=message):
        _evaluate(tmp_path, ScriptedEngine(), tasks=(_task(broken),), max_errors=limit, resume=True)
    # and with the images mended it goes on
    again = _evaluate(tmp_path, ScriptedEngine(), tasks=(_task({}),), max_errors=limit, resume=True)
    assert len(again) == 300
    assert sum(bool(r.error) for r in again) == 3 * (stopped_at - 1)


class Panic(BaseException):
    """As a tokenizer in Rust panics: none of Exception's."""


FOREIGN = [
    *(PromptError("too long"), RuntimeError("shapes\n disagree"), IndexError("position")),
    *(StopIteration("no more images"), KeyError("image"), TypeError("not a string")),
    *(AssertionError(), AttributeError("no width"), TemplateError("'foo' is undefined")),
    *(NotImplementedError("no kernel"), RecursionError("too deep"), OverflowError("too large")),
    *(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no surrogates"), Panic("index out of range")),
    *(ZeroDivisionError("by zero"), SyntaxError("broken PNG"), ValueError("a file \udcff")),
]


@pytest.mark.parametrize("problem", FOREIGN, ids=lambda problem: type(problem).__name__)
def test_only_the_refused_questions_of_a_batch_fail(tmp_path: Path, problem: BaseException) -> None:
    engine = Limited(refused=("Where is object 9?", "Where is object 12?"), problem=problem)
    records = _evaluate(tmp_path, engine)
    assert {r.id for r in records if r.error} == {"q9", "q12"}
    sentence = next(r.error for r in records if r.error)
    kind = "" if isinstance(problem, PromptError) else f"{type(problem).__name__}: "
    text = " ".join(str(problem).replace("\udcff", "\\udcff").split()) or "no reason given"
    assert sentence == kind + text
    assert engine.batches[:10] == [7, 7, 1, 1, 1, 1, 1, 1, 1, 7]
    # What is recorded is not asked again.
    again = _evaluate(tmp_path, Limited(), resume=True)
    assert [r.to_line() for r in again] == [r.to_line() for r in records]


@pytest.mark.parametrize("problem", FOREIGN, ids=lambda problem: type(problem).__name__)
def test_a_picture_may_fail_in_any_way(tmp_path: Path, problem: BaseException) -> None:
    def failing() -> tuple[Image.Image, ...]:
        raise problem

    records = _evaluate(tmp_path, ScriptedEngine(), tasks=(_task({4: failing}),))
    assert {r.id for r in records if r.error} == {"q4"}


@pytest.mark.parametrize("problem", [StopIteration(), TypeError("a bug of ours"), Panic("gone")])
def test_an_error_in_every_question_ends_the_run(tmp_path: Path, problem: BaseException) -> None:
    class Broken(Limited):
        def answer(self, *_: object, **__: object) -> list[list[Answer]]:
            raise problem

    with pytest.raises(DataError, match=f"--max-errors .* {type(problem).__name__}: "):
        _evaluate(tmp_path, Broken())
    assert len(_evaluate(tmp_path, ScriptedEngine(), resume=True)) == 300


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_an_interruption_is_nobodys_failure(tmp_path: Path, stop: type[BaseException]) -> None:
    def interrupted() -> tuple[Image.Image, ...]:
        raise stop

    with pytest.raises(stop):
        _evaluate(tmp_path / "asking", Limited(refused=("Where is object 9?",), problem=stop()))
    with pytest.raises(stop):
        _evaluate(tmp_path / "opening", ScriptedEngine(), tasks=(_task({4: interrupted}),))


def test_what_is_wrong_with_every_question_stops_the_run_at_once(tmp_path: Path) -> None:
    class Refusing(Limited):
        def answer(self, *_: object, **__: object) -> list[list[Answer]]:
            raise ConfigError("The model has 4 layers")

    with pytest.raises(ConfigError, match="4 layers"):
        _evaluate(tmp_path, Refusing())
    with pytest.raises(ConfigError, match="raw prompt"):
        _evaluate(tmp_path, Refusing(), prompts="raw")
    assert not (tmp_path / "records.jsonl").read_bytes()


def test_a_batch_too_large_for_memory_is_halved_and_the_size_remembered(tmp_path: Path) -> None:
    engine = Limited(most=12)
    with pytest.warns(AdaptVisWarning, match="did not suffice for 64 questions at once"):
        records = _evaluate(tmp_path, engine, batch_size=64)
    assert engine.batches == [64, 32, 16, *[8] * 12, 4]
    assert len({r.key for r in records}) == len(records) == 300
    assert not any(r.error for r in records)


def test_a_question_too_large_for_memory_fails_alone(tmp_path: Path) -> None:
    class Hungry(Limited):
        def answer(
            self, queries: Sequence[Query], *arguments: object, **options: object
        ) -> list[list[Answer]]:
            if any(query.prompt == "Where is object 30?" for query in queries):
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
            return super().answer(queries, *arguments, **options)  # type: ignore[arg-type]

    with pytest.warns(AdaptVisWarning):
        records = _evaluate(tmp_path, Hungry(), batch_size=7)
    assert {r.id for r in records if r.error} == {"q30"}


def test_the_first_batch_size_goes_by_the_engine() -> None:
    class Described(ScriptedEngine):
        def __init__(self, **description: str) -> None:
            super().__init__()
            self.description = description

        def describe(self) -> dict[str, str]:
            return self.description

    assert first_batch_size(Described(engine="hf", device="cpu")) == 16
    assert first_batch_size(Described(engine="hf", device="cuda:0")) == 64
    assert first_batch_size(Described(engine="vllm", device="cuda")) == 256
    asker = Asker(Described(engine="hf", device="cpu"))
    sizes = [len(o) for o in asker.ask(load("test"), Request((None,)))]
    assert sizes == [16] * 6 + [4]


@pytest.mark.parametrize(
    ("text", "questions", "allowed"),
    [
        *(("5%", 100, 5), ("5%", 101, 6), ("5 %", 3, 1), ("0", 100, 0), ("0%", 9, 0)),
        *(("7%", 100, 7), ("0.7%", 1000, 7), ("29%", 100, 29), ("100%", 9, 9), ("12", 5, 12)),
    ],
)
def test_error_limits(text: str, questions: int, allowed: int) -> None:
    assert ErrorLimit.parse(text).allowed(questions) == allowed


def test_a_share_is_exact() -> None:
    for percent in range(101):
        assert ErrorLimit.parse(f"{percent}%").allowed(100) == percent
        assert ErrorLimit(percent / 100).allowed(100) == percent
        assert str(ErrorLimit.parse(f"{percent}%")) == f"{percent}%"


@pytest.mark.parametrize("text", ["", "many", "-1", "101%", "0.5", "5%%"])
def test_error_limits_that_make_no_sense(text: str) -> None:
    with pytest.raises(ConfigError, match="--max-errors"):
        ErrorLimit.parse(text)
