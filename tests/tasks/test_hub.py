"""Benchmarks by hub id, on local data sets in the hub's schemas: parquet files with a card."""

import io
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pictures_on_disk import encoded, orientation_tag
from PIL import Image
from tasks.published import CV_BENCH_ROWS, MMVP_ROWS, write_jsonl, write_whatsup

from adaptvis.errors import ConfigError, DataError
from adaptvis.tasks import get_task
from adaptvis.tasks.hub import read_hub

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def png(side: int = 5) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side), 7).save(buffer, format="PNG")
    return buffer.getvalue()


def rows(entries: list[dict[str, Any]], image: str = "image") -> Any:
    """A data set whose column `image` holds pictures of 5, 6, 7, ... pixels."""
    table = datasets.Dataset.from_list(
        [{**e, image: {"bytes": png(5 + i), "path": None}} for i, e in enumerate(entries)]
    )
    return table.cast_column(image, datasets.Image())


def repository(folder: Path, splits: dict[tuple[str, str], Any]) -> str:
    """A clone of a hub repository: one parquet file per configuration and split, and the card."""
    configs: dict[str, list[dict[str, str]]] = {}
    for (config, split), table in splits.items():
        name = f"{config}/{split}-00000-of-00001.parquet"
        (folder / config).mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / name)
        configs.setdefault(config, []).append({"split": split, "path": name})
    card = json.dumps(
        {"configs": [{"config_name": c, "data_files": files} for c, files in configs.items()]}
    )
    (folder / "README.md").write_text(f"---\n{card}\n---\n")
    return f"hf:{folder}"


def test_pope(tmp_path: Path) -> None:
    entries = [
        {
            "id": str(i),
            "question_id": str(i + 1),
            "question": "Is there a dog in the image?",
            "answer": answer,
            "image_source": f"COCO_val2014_{i // 2}",
            "category": "popular",
        }
        for i, answer in enumerate(["yes", "no"] * 5)
    ]
    hub = repository(tmp_path / "POPE", {("Full", "popular"): rows(entries)})
    task = get_task("pope-popular", data=hub)
    samples = task.load(part="all")
    assert [s.id for s in samples[:2]] == ["pope-1", "pope-2"]
    assert samples[1].prompt.startswith("Is there a dog in the image?\nAnswer")
    assert [s.gold for s in samples[:2]] == [("yes",), ("no",)]
    assert [(s.images()[0].mode, s.images()[0].width) for s in samples[:2]] == [
        ("RGB", 5),
        ("RGB", 6),
    ]
    assert (len(task.load(part="validation")), len(task.load(part="test"))) == (2, 8)
    assert "sha256:" in task.source
    with pytest.raises(DataError, match="split random"):
        get_task("pope-random", data=hub)


def test_pictures_of_the_hub_are_turned_as_those_of_the_folder(tmp_path: Path) -> None:
    stored = encoded(Image.new("RGB", (6, 8)), "PNG", exif=orientation_tag(6))
    entry = {"question_id": "1", "question": "Is there a dog?", "answer": "yes"}
    entry |= {"image_source": "a", "image": {"bytes": stored, "path": None}}
    table = datasets.Dataset.from_list([entry]).cast_column("image", datasets.Image())
    hub = repository(tmp_path / "POPE", {("Full", "random"): table})
    # As published, and as any other data set: the library itself would turn it, too.
    assert get_task("pope-random", data=hub).load(part="all")[0].images()[0].size == (6, 8)
    read = read_hub(hub.removeprefix("hf:"), "random", "Full", images=("image",))
    assert read.images(0)()[0].size == table[0]["image"].size == (8, 6)


def test_a_question_travels_without_the_whole_data_set(tmp_path: Path) -> None:
    """Ray pickles every question of a batch with what opens its picture."""

    def size(count: int) -> int:
        entries = [
            {
                "question_id": i,
                "question": f"{i} " + "?" * 100,
                "answer": "yes",
                "image_source": "x",
            }
            for i in range(count)
        ]
        hub = repository(tmp_path / str(count), {("Full", "popular"): rows(entries)})
        sample = get_task("pope-popular", data=hub).load(part="all")[1]
        content = pickle.dumps(sample)
        assert pickle.loads(content).images()[0].width == 6
        return len(content)

    assert size(500) < size(5) + 1000


def test_gqa_joins_two_configurations(tmp_path: Path) -> None:
    questions = [
        {
            "id": str(20 + i),
            "imageId": f"n{i % 2}",
            "question": "What is it?",
            "answer": "dog",
            "types": {"structural": "query", "semantic": "rel", "detailed": "x"},
        }
        for i in range(3)
    ]
    hub = repository(
        tmp_path / "GQA",
        {
            ("testdev_balanced_instructions", "testdev"): datasets.Dataset.from_list(questions),
            ("testdev_balanced_images", "testdev"): rows([{"id": "n1"}, {"id": "n0"}]),
        },
    )
    samples = get_task("gqa", data=hub).load(part="all")
    assert [s.images()[0].width for s in samples] == [6, 5, 6]
    assert samples[0].category == "query"


def test_vqav2(tmp_path: Path) -> None:
    entry = {
        "question_type": "is the",
        "multiple_choice_answer": "yes",
        "answers": [
            {"answer": "yes" if i < 3 else "no", "answer_confidence": "yes", "answer_id": i}
            for i in range(10)
        ],
        "image_id": 42,
        "answer_type": "yes/no",
        "question_id": 42000,
        "question": "Is it?",
    }
    hub = repository(tmp_path / "VQAv2", {("default", "validation"): rows([entry])})
    task = get_task("vqav2", data=hub)
    (sample,) = task.load(part="all")
    assert task.grade(sample, "Yes").score == pytest.approx(0.9)
    assert sample.images()[0].size == (5, 5)


def test_cv_bench(tmp_path: Path) -> None:
    tables = {(part.upper(), "test"): rows(found) for part, found in CV_BENCH_ROWS.items()}
    hub = repository(tmp_path / "CV", tables)
    samples = get_task("cv-bench", data=hub).load(part="all")
    assert [s.category for s in samples[3:]] == ["Relation", "Depth", "Distance"]
    assert [s.images()[0].width for s in samples] == [5, 6, 7, 8, 5, 6]
    assert len(get_task("cv-bench-3d", data=hub).load(part="all")) == 2


def test_mmvp(tmp_path: Path) -> None:
    hub = repository(tmp_path / "MMVP", {("default", "train"): rows(MMVP_ROWS)})
    samples = get_task("mmvp", data=hub).load(part="all")
    assert [s.gold[0] for s in samples] == ["(a)", "(b)"] * 3
    assert samples[2].images()[0].width == 7


def test_vsr_takes_its_pictures_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {
        "image": "1.jpg",
        "image_link": "http://images.cocodataset.org/train2017/1.jpg",
        "caption": "The cat is under the bed.",
        "label": 0,
        "relation": "under",
    }
    folder = tmp_path / "VSR"
    write_jsonl(folder / "test.jsonl", [entry])
    monkeypatch.setenv("ADAPTVIS_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=r"train2017/ \(from images\.cocodataset"):
        get_task("vsr", data=f"hf:{folder}")
    pictures = tmp_path / "data/vsr/train2017"
    pictures.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(pictures / "1.jpg")
    (sample,) = get_task("vsr-unresized", data=f"hf:{folder}").load(part="all")
    assert (sample.gold, sample.images()[0].size) == (("No",), (9, 9))


@pytest.mark.parametrize("subset", ["A", "B"])
def test_whatsup_takes_its_questions_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subset: str
) -> None:
    name = "images" if subset == "A" else "clevr"
    local = write_whatsup(tmp_path / "data/whatsup", subset, groups=1, pictures=False)
    items = json.loads((local / f"data/controlled_{name}_dataset.json").read_text())
    relations = ["to the left of", "to the right of"]
    relations += ["on", "under"] if subset == "A" else ["in front of", "behind"]
    entries = [
        {"caption_options": [f"A beer mug {relation} a table", "another"]} for relation in relations
    ]
    assert len(items) == len(entries)
    split = f"Controlled_Images_{subset}"
    hub = repository(
        tmp_path / "whatsup", {("default", split): rows(entries, image="image_options")}
    )
    monkeypatch.setenv("ADAPTVIS_DATA", str(tmp_path / "data"))
    task = get_task(f"controlled_{subset.lower()}", data=hub)
    found = task.load(part="all")
    assert {s.tags["group"] for s in found} == {"beer mug / table"}
    from_folder = get_task(f"controlled_{subset.lower()}", data=local).load(part="all")
    for ours, theirs in zip(found, from_folder, strict=True):
        assert ours.raw_prompt == theirs.raw_prompt
        assert ours.tags["relation"] == theirs.tags["relation"]
    assert found[3].images()[0].width == 8


def test_2ds(tmp_path: Path) -> None:
    from adaptvis.data.two_ds import generate_2ds, write_parquet

    folder = tmp_path / "2DS"
    (folder / "data").mkdir(parents=True)
    write_parquet(generate_2ds(images_per_count=1), folder / "data/train-00000-of-00001.parquet")
    by_hub = get_task("2ds", data=f"hf:{folder}")
    by_folder = get_task("2ds", data=folder)
    assert [s.prompt for s in by_hub.load()] == [s.prompt for s in by_folder.load()]
    assert by_hub.name == by_folder.name == "2ds"
    first, second = by_hub.load()[0], by_folder.load()[0]
    assert first.images()[0].tobytes() == second.images()[0].tobytes()
    with pytest.raises(ConfigError, match="without a validation part"):
        by_hub.load(part="validation")
    with pytest.raises(DataError, match="user074/2DSyntheticDataset"):
        get_task("2ds", data=tmp_path)


def test_a_data_set_saved_to_disk(tmp_path: Path) -> None:
    rows(MMVP_ROWS).save_to_disk(str(tmp_path / "saved"))
    samples = get_task("mmvp", data=f"hf:{tmp_path / 'saved'}").load(part="all")
    assert samples[1].images()[0].width == 6


def test_what_is_wrong_with_a_data_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hf:.*nowhere \(split train\) cannot be loaded"):
        read_hub(str(tmp_path / "nowhere"), "train")
    hub = repository(tmp_path / "a", {("default", "train"): rows([{"x": 1}])})
    with pytest.raises(DataError, match=r"'picture' is missing"):
        read_hub(hub.removeprefix("hf:"), "train", images=("picture",))
    with pytest.raises(DataError, match="does not hold pictures"):
        read_hub(hub.removeprefix("hf:"), "train", images=("x",))
    with pytest.raises(DataError, match="row 0: the field 'Index' is missing"):
        get_task("mmvp", data=hub).load()


def broken() -> bytes:
    return png(40)[:60]


@pytest.mark.parametrize(
    ("make", "message"),
    [(broken, "row 0 cannot be read"), (bytes, "row 0 is not embedded in the data set")],
)
def test_a_broken_picture_is_an_error_when_it_is_opened(
    tmp_path: Path, make: Callable[[], bytes], message: str
) -> None:
    table = datasets.Dataset.from_list(
        [{**MMVP_ROWS[0], "image": {"bytes": make() or None, "path": "/etc/hostname"}}]
    )
    table = table.cast_column("image", datasets.Image(decode=False))
    hub = repository(tmp_path / "a", {("default", "train"): table})
    (sample,) = get_task("mmvp", data=hub).load(part="all")
    with pytest.raises(DataError, match=message):
        sample.images()


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'adaptvis\[datasets\]'"):
        get_task("mmvp", data="hf:")
