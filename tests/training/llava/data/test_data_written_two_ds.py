"""2DS in LLaVA format: reproducible, true of its pictures, never a test or validation scene."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adaptvis.data import generate_2ds, render
from adaptvis.data.questions import CATEGORIES, KINDS_OF, questions_about
from adaptvis.data.scenes import part_of
from adaptvis.errors import ConfigError, OutputError
from adaptvis.training.llava.data import ConversationDataset, check, write_two_ds
from adaptvis.training.llava.data import two_ds as two_ds_module
from adaptvis.training.tiny.stream import Batch, make_batch

ARGUMENTS: dict[str, Any] = {"images": 70, "questions_per_image": 3, "seed": 5}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_arguments_give_the_same_files(tmp_path: Path) -> None:
    write_two_ds(tmp_path / "a", **ARGUMENTS)
    write_two_ds(tmp_path / "b", **ARGUMENTS)
    write_two_ds(tmp_path / "short", **ARGUMENTS | {"images": 66})
    first = contents(tmp_path / "a")
    assert len(first) == 71
    assert contents(tmp_path / "b") == first
    short = json.loads((tmp_path / "short/data.json").read_text())
    assert short == json.loads(first["data.json"])[: len(short)]


def test_questions_are_true_of_train_scenes(tmp_path: Path, monkeypatch: Any) -> None:
    scenes = []

    def recorded(*arguments: Any) -> Batch:
        batch = make_batch(*arguments)
        scenes.extend(batch.scenes)
        return batch

    monkeypatch.setattr(two_ds_module, "make_batch", recorded)
    written = write_two_ds(tmp_path, **ARGUMENTS)
    samples = json.loads(written.data.read_text())
    assert len(samples) == written.samples == len({s["id"] for s in samples})
    assert all(part_of(scene) == "train" for scene in scenes)
    for sample in samples:
        scene = scenes[int(sample["image"][:6])]
        with Image.open(written.image_folder / sample["image"]) as image:
            assert image.tobytes() == render(scene).tobytes()
        human, answer = sample["conversations"]
        known = {
            (question.text, question.answer)
            for category in CATEGORIES
            for kind in KINDS_OF[category]
            for question in questions_about(scene, category, kind)
        }
        assert (human["value"].removeprefix("<image>\n"), answer["value"]) in known


def test_no_picture_is_one_of_the_benchmark(tmp_path: Path) -> None:
    written = write_two_ds(tmp_path, **ARGUMENTS)
    held_out = {
        Image.open(io.BytesIO(entry.image_png)).tobytes()
        for part in ("test", "validation")
        for entry in generate_2ds(part, images_per_count=20)
    }
    trained = {Image.open(p).tobytes() for p in written.image_folder.iterdir()}
    assert not trained & held_out


def test_turns_group_questions_and_train(tmp_path: Path, tiny: Any) -> None:
    written = write_two_ds(tmp_path, **ARGUMENTS, turns=2, objects={2: 1.0})
    samples = json.loads(written.data.read_text())
    assert {len(s["conversations"]) for s in samples} == {2, 4}
    values = [[t["value"] for t in s["conversations"]] for s in samples]
    assert all("".join(v).count("<image>") == 1 and v[0].startswith("<image>\n") for v in values)
    dataset = ConversationDataset(
        written.data, image_folder=written.image_folder, processor=tiny, max_length=512
    )
    assert check(dataset, decode=True) == []
    unknown = tiny.tokenizer.unk_token_id
    assert all(unknown not in dataset[i]["input_ids"] for i in range(len(dataset)))


def test_what_exists_stays(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text("mine")
    with pytest.raises(OutputError, match=r"data\.json exists"):
        write_two_ds(tmp_path, **ARGUMENTS)
    assert (tmp_path / "data.json").read_text() == "mine"
    with pytest.raises(ConfigError, match="images must be at least 1"):
        write_two_ds(tmp_path / "b", **ARGUMENTS | {"images": 0})
