"""Sweeps on disk: asked once, interrupted, resumed, read back."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tuning.known import TASK, KnownEngine, unreadable

from adaptvis.config import ScalingVis, SteeringConfig
from adaptvis.engine import Answer, Query
from adaptvis.errors import AdaptVisWarning, ConfigError, DataError, OutputError, PromptError
from adaptvis.tasks import Grade, Part, Sample, Task
from adaptvis.tuning import Grid, Sweep, run_sweep, select

GRID = Grid(alphas=(0.8, 1.5, 2.0), layers=(None, (1, 2)))

SLOW_SWEEP = """
import sys, time
from pathlib import Path
from tuning.known import TASK, KnownEngine
from adaptvis.tuning import Grid, run_sweep
class Slow(KnownEngine):
    def answer(self, *args, **more):
        time.sleep(0.05)
        return super().answer(*args, **more)
grid = Grid(alphas=(0.8, 1.5, 2.0), layers=(None, (1, 2)))
run_sweep(Slow, TASK, grid, Path(sys.argv[1]), batch_size=7, resume=True)
"""


def sweep_in(folder: Path, engine: KnownEngine | None = None, **options: object) -> Sweep:
    engine = engine or KnownEngine()
    return run_sweep(lambda: engine, TASK, GRID, folder, **options)  # type: ignore[arg-type]


def refuse() -> KnownEngine:
    raise AssertionError("no engine is needed")


def test_a_sweep_asks_each_batch_once_and_finds_the_engines_optimum(tmp_path: Path) -> None:
    engine = KnownEngine()
    done: list[tuple[int, int]] = []
    sweep = sweep_in(tmp_path / "s", engine, batch_size=100, progress=lambda *s: done.append(s))
    assert engine.calls == [(100, 7), (100, 7), (100, 7), (30, 7)]
    assert done[-1] == (330, 330)
    # By hand: six of ten unsteered, nine of ten under the engine's optimum, none elsewhere.
    np.testing.assert_allclose(
        sweep.points.mean(axis=2), [[0, 0.6, 0, 0], [0, 0.6, 0.9, 0]], atol=1e-12
    )
    assert sweep.confidence[7] == pytest.approx(0.47)
    assert sweep.images[:3] == ("i0", "i0", "i1")
    chosen = select(sweep)
    assert chosen.scaling == ScalingVis(alpha=1.5, layers=(1, 2))
    assert chosen.scaling_value == pytest.approx(0.9)

    again = run_sweep(refuse, TASK, GRID, tmp_path / "s", batch_size=100, resume=True)
    np.testing.assert_array_equal(again.points, sweep.points)
    np.testing.assert_array_equal(again.codes, sweep.codes)
    assert list(again.outcomes) == list(sweep.outcomes)
    assert again.images == sweep.images


@pytest.mark.parametrize("cut", [0.0, 0.13, 0.5, 0.99, 1.0])
def test_an_interrupted_sweep_ends_as_an_uninterrupted_one(tmp_path: Path, cut: float) -> None:
    sweep_in(tmp_path / "s")
    lines = tmp_path / "s" / "sweep.jsonl"
    whole = lines.read_bytes()
    lines.write_bytes(whole[: int(cut * len(whole))])
    engine = KnownEngine()
    sweep_in(tmp_path / "s", engine, resume=True)
    assert lines.read_bytes() == whole
    # Nothing is asked again but the last batch.
    assert sum(n for n, _ in engine.calls) <= (1 - cut) * 330 + 64


def test_kill_9_and_resume(tmp_path: Path) -> None:
    sweep_in(tmp_path / "whole", batch_size=7)
    lines = tmp_path / "killed" / "sweep.jsonl"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]),
    }
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_SWEEP, str(tmp_path / "killed")], env=environment
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if lines.exists() and lines.stat().st_size > 5000:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    with lines.open("ab") as file:
        file.write(b'{"id": "9')
    sweep_in(tmp_path / "killed", batch_size=7, resume=True)
    assert lines.read_bytes() == (tmp_path / "whole" / "sweep.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 10}, "batch_size was 64, now 10"),
        ({"limit": 20}, "limit was null, now 20"),
        ({"settings": {"dtype": "bfloat16"}}, 'dtype was null, now "bfloat16"'),
    ],
)
def test_another_sweep_is_not_resumed(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    sweep_in(tmp_path / "s")
    with pytest.raises(ConfigError, match=named):
        sweep_in(tmp_path / "s", resume=True, **change)


def test_another_grid_is_not_resumed(tmp_path: Path) -> None:
    sweep_in(tmp_path / "s")
    with pytest.raises(ConfigError, match=r"grid\.alphas was"):
        run_sweep(refuse, TASK, Grid(), tmp_path / "s", resume=True)


def reworded(part: Part) -> list[Sample]:
    return [replace(s, prompt=str(int(s.prompt) + 5)) for s in TASK.loader(part)]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (replace(TASK, max_new_tokens=1), "max_new_tokens was 16, now 1"),
        (replace(TASK, loader=reworded), "questions.prompts_sha256 was"),
    ],
)
def test_other_questions_are_not_resumed(tmp_path: Path, changed: Task, named: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep_in(tmp_path / "s", KnownEngine(fail_after=1))
    with pytest.raises(ConfigError, match=named):
        run_sweep(refuse, changed, GRID, tmp_path / "s", resume=True)


def test_a_sweep_of_another_version_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_in(tmp_path / "s")
    monkeypatch.setattr("adaptvis.tuning.sweep.__version__", "0.0.0")
    with pytest.raises(ConfigError, match=r'adaptvis was ".*", now "0\.0\.0"'):
        sweep_in(tmp_path / "s", resume=True)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    sweep_in(tmp_path / "s")
    with pytest.raises(OutputError, match="already holds a sweep; add --resume"):
        sweep_in(tmp_path / "s")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"holds other files \(notes.txt\)"):
        sweep_in(tmp_path / "mine", resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Cannot write"):
        sweep_in(tmp_path / "file" / "s")


def test_damaged_lines_are_named(tmp_path: Path) -> None:
    sweep_in(tmp_path / "s")
    lines = tmp_path / "s" / "sweep.jsonl"
    whole = lines.read_bytes().splitlines(keepends=True)
    lines.write_bytes(b"".join([whole[1], whole[0], *whole[2:]]))
    with pytest.raises(DataError, match="in their order"):
        sweep_in(tmp_path / "s", resume=True)
    lines.write_bytes(whole[0] + b"{}\n")
    with pytest.raises(DataError, match="line 2: not a question"):
        sweep_in(tmp_path / "s", resume=True)
    lines.write_bytes(b"".join(whole) + whole[0])
    with pytest.raises(DataError, match="in their order"):
        sweep_in(tmp_path / "s", resume=True)


def test_pictures_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    task = Task("broken", "", unreadable)
    sweep = run_sweep(KnownEngine, task, GRID, tmp_path / "s", batch_size=50)
    assert sweep.unreadable == 2
    assert len(sweep.images) == 328
    lines = [json.loads(line) for line in (tmp_path / "s" / "sweep.jsonl").open()]
    assert [line["id"] for line in lines if line["error"]] == ["3", "150"]


class FailingEngine(KnownEngine):
    """Refuses the questions whose prompts are named; out of memory above `most` of them."""

    def __init__(self, refused: tuple[str, ...] = (), most: int = 1000) -> None:
        super().__init__()
        self.refused, self.most = refused, most

    def answer(
        self,
        queries: Sequence[Query],
        configs: Sequence[SteeringConfig | None],
        *,
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        if len(queries) > self.most:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if any(query.prompt in self.refused for query in queries):
            raise PromptError("The prompt has 5000 tokens, more than 4096")
        return super().answer(queries, configs, max_new_tokens=max_new_tokens)


def test_a_prompt_that_the_engine_refuses_is_left_out(tmp_path: Path) -> None:
    whole = sweep_in(tmp_path / "whole")
    sweep = sweep_in(tmp_path / "s", FailingEngine(("7",)))
    assert sweep.unreadable == 1
    np.testing.assert_array_equal(sweep.points, np.delete(whole.points, 7, axis=2))
    lines = [json.loads(line) for line in (tmp_path / "s" / "sweep.jsonl").open()]
    failed = [(line["id"], line["error"]) for line in lines if line["error"]]
    assert failed == [("7", "The prompt has 5000 tokens, more than 4096")]
    again = run_sweep(refuse, TASK, GRID, tmp_path / "s", resume=True)
    np.testing.assert_array_equal(again.points, sweep.points)


def test_batches_that_do_not_fit_are_halved(tmp_path: Path) -> None:
    whole = sweep_in(tmp_path / "whole")
    engine = FailingEngine(most=20)
    with pytest.warns(AdaptVisWarning, match="going on with 16"):
        sweep = sweep_in(tmp_path / "s", engine)
    # 64 and 32 are too many.
    assert engine.calls == [(16, 7)] * 20 + [(10, 7)]
    np.testing.assert_array_equal(sweep.points, whole.points)


def test_too_many_failures_end_a_sweep_at_once_and_it_goes_on_later(tmp_path: Path) -> None:
    # 5 % of 330 questions, rounded up, are 17; the eighteenth lies in the second batch of 64.
    engine = FailingEngine(tuple(str(i) for i in range(0, 72, 4)))
    with pytest.raises(DataError, match=r"18 of 330 .* more than 5%; the first: .* --resume"):
        sweep_in(tmp_path / "s", engine)
    # One by one: 48 of the first batch and 62 of the second are answered, and none behind.
    assert engine.calls == [(1, 7)] * (48 + 62)
    assert len((tmp_path / "s" / "sweep.jsonl").read_bytes().splitlines()) == 64
    mended = KnownEngine()
    sweep = sweep_in(tmp_path / "s", mended, resume=True)
    assert sum(n for n, _ in mended.calls) == 330 - 64
    assert sweep.unreadable == 16


def test_nothing_but_failures(tmp_path: Path) -> None:
    task = Task("one", "", lambda part: unreadable(part)[3:4])
    with pytest.raises(
        DataError, match=r"None of 1 questions could be asked; the first: not an image"
    ):
        run_sweep(KnownEngine, task, GRID, tmp_path / "s")


def test_points_are_the_published_rules_and_may_be_fractions(tmp_path: Path) -> None:
    def grader(sample: Sample, text: str) -> Grade:
        return Grade(text == "left", False, True, score=0.9 if text == "left" else 0.3)

    task = Task("soft", "", TASK.loader, grader=grader)
    sweep = run_sweep(KnownEngine, task, GRID, tmp_path / "s")
    assert sweep.points.mean(axis=2)[0, 1] == pytest.approx(0.6 * 0.9 + 0.4 * 0.3)
    assert {o.score for o in sweep.outcomes} == {0.9, 0.3}
