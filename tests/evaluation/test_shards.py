"""Shards, and what they become when they are merged."""

import json
from itertools import chain
from pathlib import Path

import pytest
from evaluation.scripted import METHODS, ScriptedEngine, load, plan

from adaptvis.errors import AdaptVisError, ConfigError, DataError
from adaptvis.evaluation import ErrorLimit, ModelPlan, Shard, evaluate, merge
from adaptvis.evaluation.questions import index_ranges, load_questions
from adaptvis.evaluation.shards import shard_of_each
from adaptvis.evaluation.summary import summarise, write_summary


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three shards of one run, batch size 1, for which the scripted confidence is the same."""
    base = tmp_path_factory.mktemp("shards")
    folders = [base / str(number) for number in (1, 2, 3)]
    for number, folder in enumerate(folders, start=1):
        evaluate(plan(shard=Shard(number, 3), batch_size=1), lambda m: ScriptedEngine(), folder)
    return folders


def test_shards_share_no_image_and_leave_no_question_out() -> None:
    samples = load("test")
    numbers = shard_of_each(samples, 3)
    images = [
        {s.image_id for s, n in zip(samples, numbers, strict=True) if n == k} for k in (1, 2, 3)
    ]
    assert sum(len(i) for i in images) == len(set(chain(*images))) == 34
    parts = [load_questions(plan().tasks[0], plan(shard=Shard(k, 3))) for k in (1, 2, 3)]
    assert [len(p.samples) for p in parts] == [34, 33, 33]
    assert sorted(s.id for p in parts for s in p.samples) == sorted(s.id for s in samples)
    assert (
        parts[0].identity == parts[1].identity == load_questions(plan().tasks[0], plan()).identity
    )


def test_a_limit_is_taken_before_the_shards() -> None:
    parts = [load_questions(plan().tasks[0], plan(limit=10, shard=Shard(k, 2))) for k in (1, 2)]
    whole = load_questions(plan().tasks[0], plan(limit=10))
    assert {s.id for p in parts for s in p.samples} == {s.id for s in whole.samples}
    assert parts[0].identity["count"] == 10


def test_indices_name_the_questions_among_all_of_the_part() -> None:
    questions = load_questions(plan().tasks[0], plan(limit=10))
    found = []
    for piece in questions.identity["indices"].split(","):
        first, _, last = piece.partition("-")
        found += range(int(first), int(last or first) + 1)
    assert [f"q{i}" for i in found] == [s.id for s in questions.samples]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([0, 1, 2], "0-2"), ([0, 1, 3, 7, 8], "0-1,3,7-8"), ([5, 4], "5,4")],
)
def test_index_ranges(numbers: list[int], text: str) -> None:
    assert index_ranges(numbers) == text


def test_merged_shards_are_the_unsharded_run(shards: list[Path], tmp_path: Path) -> None:
    whole = evaluate(plan(batch_size=1), lambda m: ScriptedEngine(), tmp_path / "whole")
    merged = merge(plan(), [shards[2], shards[0], shards[1]], tmp_path / "merged")
    for name in ("records.jsonl", "run.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(merged.records) == len(whole.records) == 600
    assert summarise(merged.records) == summarise(whole.records)
    assert merged.configuration == whole.configuration


def test_shards_of_machines_with_other_paths_merge(tmp_path: Path) -> None:
    folders = []
    for number in (1, 2):
        model = tmp_path / f"machine{number}" / "model"
        model.mkdir(parents=True)
        (model / "weights").write_text("the same")
        models = (ModelPlan("one", str(model), METHODS),)
        settings = (("data", f"/machine{number}"),)
        folders.append(tmp_path / str(number))
        shard = plan(models=models, settings=settings, shard=Shard(number, 2))
        evaluate(shard, lambda m: ScriptedEngine(), folders[-1])
    assert len(merge(plan(models=models), folders, tmp_path / "merged").records) == 300
    (model / "weights").write_text("others")
    with pytest.raises(ConfigError, match=r"models\[0\]\.fingerprint was"):
        merge(plan(models=models), folders, tmp_path / "merged again")


def test_merging_keeps_what_the_engines_said(shards: list[Path], tmp_path: Path) -> None:
    for folder, device in zip(shards, ("cpu", "cuda", "cpu"), strict=True):
        engine = {"device": device, "torch": "2"}
        write_summary(summarise([]), folder, run={}, engines={"one": engine})
    merged = merge(plan(), shards, tmp_path / "merged")
    assert merged.engines == {"one": {"device": "cpu, cuda", "torch": "2"}}
    for folder in shards:
        (folder / "summary.json").unlink()


def test_merging_again_with_resume_writes_the_same(shards: list[Path], tmp_path: Path) -> None:
    merge(plan(), shards, tmp_path / "merged")
    path = tmp_path / "merged" / "records.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    merge(plan(), shards, tmp_path / "merged", resume=True)
    assert path.read_bytes() == whole


def test_shards_that_do_not_fit_are_refused(shards: list[Path], tmp_path: Path) -> None:
    def refused(error: type[AdaptVisError], message: str, folders: list[Path]) -> None:
        with pytest.raises(error, match=message):
            merge(plan(), folders, tmp_path / "merged")
        assert not (tmp_path / "merged" / "run.json").exists()

    refused(DataError, "shards 2/3 are missing", [shards[0], shards[2]])
    refused(DataError, "holds shard 1/3 next to 1/3", [shards[0], shards[0]])
    refused(DataError, "holds no shard", [tmp_path / "nowhere"])
    evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "whole")
    refused(DataError, "holds no shard", [tmp_path / "whole"])
    evaluate(plan(shard=Shard(2, 4)), lambda m: ScriptedEngine(), tmp_path / "fourth")
    refused(DataError, "holds shard 2/4 next to 1/3", [shards[0], tmp_path / "fourth"])
    evaluate(plan(limit=9, shard=Shard(2, 3)), lambda m: ScriptedEngine(), tmp_path / "limited")
    refused(ConfigError, "limit was 9, now null", [shards[0], tmp_path / "limited", shards[2]])
    with pytest.raises(ConfigError, match="leave --shard out"):
        merge(plan(shard=Shard(1, 3)), shards, tmp_path / "merged")


def test_a_shard_that_was_interrupted_is_refused(shards: list[Path], tmp_path: Path) -> None:
    path = shards[1] / "records.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for content, message in [
        (b"".join(lines[:-1]), "is not complete; finish it with --resume"),
        (whole + lines[0], "does not hold the records of its shard"),
        (b"".join([lines[3], *lines[1:]]), "does not hold the records of its shard"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            merge(plan(), shards, tmp_path / "merged")
    path.write_bytes(whole)


def test_more_shards_than_images_leave_one_empty(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in (1, 2, 3)]
    for number, folder in enumerate(folders, start=1):
        run = evaluate(
            plan(limit=4, shard=Shard(number, 3)),
            lambda m: ScriptedEngine(),
            folder,
            max_errors=ErrorLimit(0),
        )
        if not len(run.records):
            assert summarise(run.records).pairs() == []
    assert len(merge(plan(limit=4), folders, tmp_path / "merged").records) == 4 * 2 * 3


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "a/b", "-1/2", "1/2/3"])
def test_shards_that_make_no_sense(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard takes I/N"):
        Shard.parse(text)


def test_changed_prompts_are_another_run(tmp_path: Path) -> None:
    evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    identity = stored["questions"]["scripted"]
    assert identity["count"] == 100
    assert identity["indices"] == "0-99"
    identity["prompts_sha256"] = "0" * 64
    (tmp_path / "run" / "run.json").write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=r"questions\.scripted\.prompts_sha256 was"):
        evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run", resume=True)
