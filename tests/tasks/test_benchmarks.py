"""The registry of published benchmarks: missing data, where it is looked for, unknown names."""

import pickle
from pathlib import Path

import pytest
from tasks.published import write_whatsup

from adaptvis.errors import ConfigError, DataError
from adaptvis.tasks import TASKS, get_task
from adaptvis.tasks.benchmark import Benchmark

PUBLISHED = [name for name, listed in TASKS.items() if isinstance(listed, Benchmark)]


def test_every_published_benchmark_is_listed() -> None:
    expected = {
        *("controlled_a", "controlled_b", "coco_one", "coco_two", "vg_one", "vg_two"),
        *("vsr", "pope-random", "pope-popular", "pope-adversarial", "gqa", "vqav2"),
        *("cv-bench-2d", "cv-bench-3d", "mmvp"),
    }
    assert expected <= set(PUBLISHED)
    assert {"2ds", "custom"} <= set(TASKS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_missing_data_is_answered_with_what_to_get(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ADAPTVIS_DATA", raising=False)
    with pytest.raises(DataError, match="set ADAPTVIS_DATA") as nowhere:
        get_task(name)
    with pytest.raises(DataError, match="misses in the folder") as empty:
        get_task(name, data=tmp_path)
    benchmark = TASKS[name]
    assert isinstance(benchmark, Benchmark)
    for wanted in benchmark.wanted:
        assert wanted.path in benchmark.instructions()
        assert wanted.source in benchmark.instructions()
        for message in (str(nowhere.value), str(empty.value)):
            assert (wanted.path in message) is not wanted.optional
            assert "\n" not in message


def test_only_what_is_missing_is_named(tmp_path: Path) -> None:
    write_whatsup(tmp_path, pictures=False)
    (tmp_path / "data/controlled_images_dataset.json").unlink()
    with pytest.raises(DataError) as caught:
        get_task("controlled_a", data=tmp_path)
    text = str(caught.value)
    assert "Google Drive id 1ap8mmmpQjLIjPGuplkpBgc1hoEHCj4hm" in text
    assert "prompts/" not in text


def test_the_environment_names_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whatsup(tmp_path / "whatsup")
    monkeypatch.setenv("ADAPTVIS_DATA", str(tmp_path))
    assert len(get_task("controlled_a").load(part="all")) == 8


def test_indices_are_those_of_the_loaded_samples(tmp_path: Path) -> None:
    data = write_whatsup(tmp_path, groups=5, pictures=False)
    task = get_task("controlled_a", data=data)
    everything = task.load(part="all")
    assert task.indices("all") == list(range(20))
    validation = task.indices("validation")
    # random.Random(1).sample(range(20), 4)
    assert validation == [2, 4, 8, 18]
    assert [everything[i] for i in validation] == task.load(part="validation")
    assert sorted([*validation, *(task.indices("test") or [])]) == list(range(20))
    assert get_task("2ds").indices("test") is None


def test_a_task_can_be_sent_to_another_process(tmp_path: Path) -> None:
    task = get_task("controlled_a", data=write_whatsup(tmp_path, groups=2))
    before = pickle.dumps(task)
    samples = task.load(part="all")
    assert len(pickle.dumps(task)) == len(before)  # without the questions
    (copy, sample) = pickle.loads(pickle.dumps((task, samples[3])))
    assert [s.raw_prompt for s in copy.load()] == [s.raw_prompt for s in task.load()]
    assert copy.grade(sample, "under").strict
    assert sample.images()[0].size == (8, 6)


def test_too_few_questions_for_a_validation_part(tmp_path: Path) -> None:
    task = get_task("controlled_a", data=write_whatsup(tmp_path, groups=1, pictures=False))
    with pytest.raises(DataError, match="no questions in its validation part"):
        task.load(part="validation")


def test_the_source_changes_with_the_files(tmp_path: Path) -> None:
    data = write_whatsup(tmp_path, pictures=False)
    before = get_task("controlled_a", data=data).source
    assert before == get_task("controlled_a", data=str(data)).source
    prompts = data / "prompts/Controlled_Images_A_with_answer_four_options.jsonl"
    prompts.write_text(prompts.read_text().replace("mug1", "cup1"))
    assert get_task("controlled_a", data=data).source != before


def test_unknown_names_and_splits_suggest_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'pope-popular'\?"):
        get_task("pope-populer")
    with pytest.raises(ConfigError, match=r"Unknown split 'group'.*did you mean 'grouped'\?"):
        get_task("controlled_a", data=tmp_path, split="group")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="its own validation and test parts"):
        get_task("2ds", split="grouped")
    with pytest.raises(ConfigError, match="reads no data"):
        get_task("2ds-prior-balanced", data=tmp_path)
    with pytest.raises(ConfigError, match="leave data and split out"):
        get_task(str(tmp_path / "mine.jsonl"), data=tmp_path)


def test_custom_by_name(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    path = tmp_path / "mine.jsonl"
    path.write_text('{"image": "a.png", "question": "?", "answers": ["left", "port"]}\n')
    assert get_task("custom", data=path).load()[0].gold == ("left", "port")
    with pytest.raises(DataError, match="needs data"):
        get_task("custom")
    with pytest.raises(DataError, match="does not exist"):
        get_task("custom", data=tmp_path / "other.jsonl")
    with pytest.raises(ConfigError, match=r"must end in \.jsonl"):
        get_task("custom", data=tmp_path / "mine.csv")


def test_the_split_is_the_published_one_or_shares_no_picture() -> None:
    """AdaptVis published its rule for WhatsUp and VSR only."""
    splits = {name: listed.split for name, listed in TASKS.items() if isinstance(listed, Benchmark)}
    published = {name for name, split in splits.items() if split == "reference"}
    whatsup = {"controlled_a", "controlled_b", "coco_one", "coco_two", "vg_one", "vg_two"}
    assert published == whatsup | {"vsr", "vsr-unresized"}
    assert "pope-random" in splits.keys() - published


def test_what_metrics_join(tmp_path: Path) -> None:
    joined = {name: listed.joined_by for name, listed in TASKS.items() if listed.joined_by}
    assert joined == {
        "controlled_a": "group",
        "controlled_b": "group",
        "mmvp": "pair",
        "mmvp-corrected": "pair",
    }
    data = write_whatsup(tmp_path, groups=1)
    assert get_task("controlled_a", data=data).joined_by == "group"
