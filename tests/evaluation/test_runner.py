"""Runs, interruptions and resumption."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from evaluation.made import record
from evaluation.scripted import METHODS, TASK, ScriptedEngine, plan

from adaptvis.errors import AdaptVisError, ConfigError, DataError, OutputError
from adaptvis.evaluation import ModelPlan, Record, Shard, evaluate, read_records
from adaptvis.evaluation.records import RecordFile

SLOW_RUN = """
import sys
from pathlib import Path
from evaluation.scripted import ScriptedEngine, plan
from adaptvis.evaluation import evaluate
evaluate(plan(), lambda m: ScriptedEngine(delay=0.02), Path(sys.argv[1]), resume=True)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The records of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    evaluate(plan(), lambda m: ScriptedEngine(), folder)
    return (folder / "records.jsonl").read_bytes()


def test_every_question_is_recorded_once_per_model_and_method(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(whole)
    records = read_records(path)
    assert len(records) == 2 * 100 * 3
    assert len({r.key for r in records}) == len(records)
    line = json.loads(whole.splitlines()[0])
    wanted = "id task category method question answer gold correct confidence alpha applied"
    assert set(wanted.split()) <= set(line)
    assert line["image_id"] == "image0"
    assert line["object_count"] == 2


def test_ten_kills_and_resumes_end_in_the_same_records(whole: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    records = folder / "records.jsonl"
    tests = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    chance = random.Random(5)
    sizes = [0]
    # Ten places in the records, and a moment after each, so that some kills hit a write.
    for share in sorted(chance.uniform(0.01, 0.9) for _ in range(10)):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW_RUN, str(folder)], env=environment, stderr=subprocess.PIPE
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if records.exists() and records.stat().st_size > share * len(whole):
                break
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors.decode()
        sizes.append(records.stat().st_size)
    assert 0 < sizes[1] < sizes[-1] < len(whole)
    with records.open("ab") as file:
        file.write(b'{"id": "q9')
    evaluate(plan(), lambda m: ScriptedEngine(), folder, resume=True)
    assert records.read_bytes() == whole


def test_resuming_with_another_batch_size_loses_and_doubles_nothing(
    whole: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    evaluate(plan(), lambda m: ScriptedEngine(), folder)
    path = folder / "records.jsonl"
    for share, batch_size in ((0.3, 11), (0.6, None), (0.8, 1)):
        path.write_bytes(whole[: int(share * len(whole))])
        engine = ScriptedEngine()
        evaluate(plan(batch_size=batch_size), lambda m, e=engine: e, folder, resume=True)
        found, wanted = read_records(path), _records_of(whole, tmp_path)
        assert [_without_confidence(r) for r in found] == [_without_confidence(r) for r in wanted]
        for mine, theirs in zip(found, wanted, strict=True):
            assert mine.confidence == pytest.approx(theirs.confidence, abs=1e-6)


def _records_of(content: bytes, folder: Path) -> list[Record]:
    (folder / "whole.jsonl").write_bytes(content)
    return read_records(folder / "whole.jsonl")


def _without_confidence(record: Record) -> Record:
    return dataclasses.replace(record, confidence=None)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 0.5, 0.81, 0.999, 1.0])
def test_resume_from_any_cut(whole: bytes, tmp_path: Path, share: float) -> None:
    evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run")
    path = tmp_path / "run" / "records.jsonl"
    path.write_bytes(whole[: int(share * len(whole))])
    engine = ScriptedEngine()
    progress: list[tuple[str, str, int, int]] = []
    evaluate(
        plan(),
        lambda m: engine,
        tmp_path / "run",
        resume=True,
        progress=lambda *step: progress.append(step),
    )
    assert path.read_bytes() == whole
    # nothing is asked again but the last batch
    assert engine.asked <= (1 - share) * 200 + 7
    assert progress[-1] == ("two", "scripted", 100, 100)


def test_a_finished_run_loads_no_model_on_resume(tmp_path: Path) -> None:
    def refuse(model: ModelPlan) -> ScriptedEngine:
        raise AssertionError(model)

    evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run")
    run = evaluate(plan(), refuse, tmp_path / "run", resume=True)
    assert len(run.records) == 600
    assert run.engines == {}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"part": "all"}, 'part was "test", now "all"'),
        ({"shard": Shard(1, 2)}, 'shard was null, now "1/2"'),
        ({"limit": 50}, "limit was null, now 50"),
        ({"models": (ModelPlan("one", "nowhere", METHODS),)}, "models"),
        (
            {"models": tuple(ModelPlan(n, "nowhere", METHODS[:2]) for n in ("one", "two"))},
            "models[0].methods",
        ),
        ({"settings": (("dtype", "bfloat16"),)}, 'dtype was null, now "bfloat16"'),
    ],
)
def test_a_changed_configuration_is_refused(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run")
    before = (tmp_path / "run" / "records.jsonl").read_bytes()
    with pytest.raises(ConfigError) as caught:
        evaluate(plan(**change), lambda m: ScriptedEngine(), tmp_path / "run", resume=True)
    assert named in str(caught.value)
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == before


def test_results_are_not_overwritten(tmp_path: Path) -> None:
    evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run")
    with pytest.raises(OutputError, match="already holds results; add --resume"):
        evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(OutputError, match="already holds other files"):
        evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "mine")


def test_a_model_that_does_not_load_leaves_the_folder_usable(tmp_path: Path) -> None:
    def fail(model: ModelPlan) -> ScriptedEngine:
        raise AdaptVisError("no such model")

    with pytest.raises(AdaptVisError, match="no such model"):
        evaluate(plan(), fail, tmp_path / "run")
    evaluate(plan(limit=7), lambda m: ScriptedEngine(), tmp_path / "run")
    assert len(read_records(tmp_path / "run" / "records.jsonl")) == 42


def test_unwritable_output_is_found_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    def refuse(model: ModelPlan) -> ScriptedEngine:
        raise AssertionError(model)

    with pytest.raises(OutputError, match="Cannot write to the folder"):
        evaluate(plan(), refuse, tmp_path / "file" / "run")


def test_records_of_another_run_are_refused(tmp_path: Path, whole: bytes) -> None:
    evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run")
    path = tmp_path / "run" / "records.jsonl"
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(DataError, match="does not hold the records of this run"):
        evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run", resume=True)
    path.write_bytes(whole + lines[0])
    with pytest.raises(DataError, match="more records"):
        evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run", resume=True)
    path.write_bytes(lines[0] + b"{}\n" + lines[1])
    with pytest.raises(DataError, match="line 2"):
        evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run", resume=True)


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    with (
        RecordFile(tmp_path / "records.jsonl"),
        pytest.raises(OutputError, match="Another process"),
    ):
        RecordFile(tmp_path / "records.jsonl")


def test_texts_with_foreign_line_ends_are_one_record_each(tmp_path: Path) -> None:
    odd = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\x1dh\x1ei\rj\r\nk\nl"
    written = [
        record(number, question=odd, answer=odd, gold=(odd,), image_id=odd, tags={"t": odd})
        for number in range(3)
    ]
    with RecordFile(tmp_path / "records.jsonl") as file:
        file.append(written)
    assert read_records(tmp_path / "records.jsonl") == written
    # Opened again, nothing is taken for a torn line.
    with RecordFile(tmp_path / "records.jsonl") as file:
        assert [found for found, _ in file.stored()] == written


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch size"),
        ({"limit": 0}, "limit"),
        ({"seed": -1}, "seed"),
        ({"tasks": (TASK, TASK)}, "task 'scripted' is given 2 times"),
        ({"models": ()}, "At least one model"),
        ({"models": (ModelPlan("m", "s", (METHODS[0], METHODS[0])),)}, "'baseline' is given 2"),
    ],
)
def test_plans_that_make_no_sense(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**change)
