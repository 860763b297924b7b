"""The registry of published benchmarks: missing data, where it is looked for, unknown names."""

import json
import pickle
from pathlib import Path

import pytest
from pictures_on_disk import orientation_tag
from PIL import Image
from tasks.published import (
    CV_BENCH_ROWS,
    MMVP_ROWS,
    picture,
    write_csv,
    write_json,
    write_jsonl,
    write_whatsup,
)

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


def test_pictures_are_turned_unless_published_code_takes_them_as_they_are_stored() -> None:
    """AdaptVis (WhatsUp, VSR), LLaVA's loader (POPE, GQA, VQAv2) and MMVP only open and convert."""
    listed = {name: entry for name, entry in TASKS.items() if isinstance(entry, Benchmark)}
    turned = {name for name, entry in listed.items() if entry.upright}
    assert turned == {"cv-bench", "cv-bench-2d", "cv-bench-3d"}
    for name, entry in listed.items():
        said = "not turned by their EXIF orientation" in entry.instructions()
        assert said == (name not in turned)


def _turned(path: Path) -> None:
    """A picture of 8 x 6 pixels, stored on its side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 8), (9, 90, 200)).save(path, exif=orientation_tag(6))


def test_each_benchmark_asks_pictures_as_its_own_code_does(tmp_path: Path) -> None:
    root = write_whatsup(tmp_path / "controlled_a", groups=1, pictures=False)
    for item in json.loads((root / "data/controlled_images_dataset.json").read_text()):
        _turned(root / item["image_path"])
    pope = {"question_id": 1, "image": "a.jpg", "text": "Is there a cup?", "label": "yes"}
    write_jsonl(tmp_path / "pope-random/coco_pope_random.json", [pope])
    _turned(tmp_path / "pope-random/val2014/a.jpg")
    gqa = {"question": "Is it red?", "answer": "yes", "imageId": "7"}
    write_json(tmp_path / "gqa/testdev_balanced_questions.json", {"1": gqa})
    _turned(tmp_path / "gqa/images/7.jpg")
    vqa = {"question_id": 1, "image_id": 3, "question": "What?"}
    said = {"answer_type": "other", "question_type": "what", "multiple_choice_answer": "cup"}
    said |= {"question_id": 1, "image_id": 3, "answers": [{"answer": "cup"}] * 10}
    name = "v2_OpenEnded_mscoco_val2014_questions.json"
    write_json(tmp_path / "vqav2" / name, {"questions": [vqa]})
    write_json(tmp_path / "vqav2/v2_mscoco_val2014_annotations.json", {"annotations": [said]})
    _turned(tmp_path / "vqav2/val2014/COCO_val2014_000000000003.jpg")
    vsr = {"image_link": "http://x.org/train2017/1.jpg", "caption": "A cup.", "label": 1}
    write_jsonl(tmp_path / "vsr-unresized/test.jsonl", [vsr | {"relation": "on"}])
    _turned(tmp_path / "vsr-unresized/train2017/1.jpg")
    write_csv(tmp_path / "mmvp/Questions.csv", MMVP_ROWS)
    for row in MMVP_ROWS:
        _turned(tmp_path / f"mmvp/MMVP Images/{row['Index']}.jpg")
    write_jsonl(tmp_path / "cv-bench-2d/test_2d.jsonl", CV_BENCH_ROWS["2d"])
    for row in CV_BENCH_ROWS["2d"]:
        _turned(tmp_path / "cv-bench-2d" / row["filename"])
    mine = {"image": "a.jpg", "question": "Where?", "answer": "left"}
    write_jsonl(tmp_path / "mine.jsonl", [mine])
    _turned(tmp_path / "a.jpg")
    stored = ("controlled_a", "pope-random", "gqa", "vqav2", "vsr-unresized", "mmvp")
    tasks = [get_task(name, data=tmp_path / name) for name in (*stored, "cv-bench-2d")]
    for task in (*tasks, get_task(str(tmp_path / "mine.jsonl"))):
        (image,) = task.load(part="all")[0].query().images
        assert image.size == ((6, 8) if task.name in stored else (8, 6)), task.name
        assert 0x0112 not in image.getexif(), task.name


def test_a_mark_in_a_published_question_is_named(tmp_path: Path) -> None:
    texts = ("<image>\nIs there a cup?", "Is <image> a cup?")
    rows = [
        {"question_id": number, "image": "a.jpg", "text": text, "label": "yes"}
        for number, text in enumerate(texts)
    ]
    picture(tmp_path / "val2014/a.jpg")
    write_jsonl(tmp_path / "coco_pope_random.json", rows[:1])
    (sample,) = get_task("pope-random", data=tmp_path).load(part="all")
    assert sample.prompt.startswith("Is there a cup?")
    write_jsonl(tmp_path / "coco_pope_random.json", rows)
    with pytest.raises(DataError, match=r"coco_pope_random\.json, line 2: .*holds <image>"):
        get_task("pope-random", data=tmp_path).load(part="all")
