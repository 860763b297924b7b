"""`adaptvis eval` and `diagnose` on pictures and questions as people have them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli.conftest import Adaptvis, assert_one_sentence
from pictures_on_disk import orientation_tag, stored_as
from PIL import Image

from adaptvis.evaluation import read_records
from adaptvis.tasks import Sample, get_task

MODEL = "tiny-2ds-seed1"


def write(
    folder: Path, samples: list[Sample], save: Callable[[int, Image.Image, Path], None]
) -> Path:
    folder.mkdir()
    rows = []
    for number, sample in enumerate(samples):
        save(number, sample.images()[0], folder / f"{number}.jpg")
        options = {"options": sample.candidates} if sample.candidates else {}
        row = {"image": f"{number}.jpg", "question": sample.prompt, "answer": sample.gold[0]}
        rows.append(json.dumps(row | options))
    path = folder / "where.jsonl"
    path.write_text("\n".join(rows))
    return path


def test_pictures_on_their_side_are_asked_upright(adaptvis: Adaptvis, tmp_path: Path) -> None:
    where = [s for s in get_task("2ds").load(400) if s.prompt.lower().startswith("where")][:24]
    assert len(where) == 24

    def upright(_: int, image: Image.Image, path: Path) -> None:
        image.save(path, quality=100, subsampling=0)

    def on_its_side(number: int, image: Image.Image, path: Path) -> None:
        orientation = 2 + number % 7
        stored = Image.fromarray(stored_as(np.asarray(image), orientation))
        stored.save(path, quality=100, subsampling=0, exif=orientation_tag(orientation))

    def untagged(number: int, image: Image.Image, path: Path) -> None:
        stored = Image.fromarray(stored_as(np.asarray(image), 2 + number % 7))
        stored.save(path, quality=100, subsampling=0)

    answers = {}
    for name, save in {"a": upright, "b": on_its_side, "c": untagged}.items():
        path = write(tmp_path / name, where, save)
        output = tmp_path / f"out-{name}"
        run = adaptvis("eval", "-m", MODEL, "-t", path, "--method", "baseline", "-o", output)
        assert run.code == 0, run.err
        records = read_records(output / "records.jsonl")
        answers[name] = [record.answer for record in records]
        if name != "c":
            assert sum(record.correct for record in records) >= 23
    assert answers["a"] == answers["b"]
    assert answers["a"] != answers["c"]  # so the tag did it


def test_one_question_that_cannot_be_asked_ends_nothing(
    adaptvis: Adaptvis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llava.processing_llava import LlavaProcessor

    samples = get_task("2ds").load(24)
    path = write(tmp_path / "d", samples, lambda _, image, path: image.save(path))
    template = LlavaProcessor.apply_chat_template

    def failing(self, messages, *arguments, **options):
        if samples[5].prompt in str(messages):
            raise StopIteration
        return template(self, messages, *arguments, **options)

    monkeypatch.setattr(LlavaProcessor, "apply_chat_template", failing)
    output = tmp_path / "out"
    asked = ("eval", "-m", MODEL, "-t", path, "-o", output, "--max-errors", "50%")
    run = adaptvis(*asked)
    assert (run.code, "Traceback" in run.err) == (0, False)
    records = read_records(output / "records.jsonl")
    failed = {record.id for record in records if record.error}
    assert failed == {str(n + 1) for n, s in enumerate(samples) if s.prompt == samples[5].prompt}
    assert {record.error for record in records if record.error} == {
        "StopIteration: no reason given"
    }
    assert adaptvis(*asked, "--resume").code == 0
    assert [r.to_line() for r in read_records(output / "records.jsonl")] == [
        r.to_line() for r in records
    ]


def test_a_mark_in_a_question_is_named_with_file_and_line(
    adaptvis: Adaptvis, tmp_path: Path
) -> None:
    samples = get_task("2ds").load(3)
    path = write(tmp_path / "d", samples, lambda _, image, path: image.save(path))
    lines = path.read_text().split("\n")
    row = json.loads(lines[1])
    path.write_text("\n".join([lines[0], json.dumps(row | {"question": "Is <image> red?"})]))
    run = adaptvis("eval", "-m", MODEL, "-t", path, "-o", tmp_path / "out")
    assert_one_sentence(run, f"{path}, line 2: the question holds <image>")


def test_an_instrument_leaves_out_what_cannot_be_asked(adaptvis: Adaptvis, tmp_path: Path) -> None:
    path = write(tmp_path / "d", get_task("2ds").load(24), lambda _, image, path: image.save(path))
    (path.parent / "3.jpg").write_bytes(b"torn")
    run = adaptvis("diagnose", "norms", "-m", MODEL, "-t", path, "-o", tmp_path / "out")
    assert run.code == 0, run.err
    assert "1 of 24 questions cannot be asked; the first: 4: " in " ".join(run.err.split())
    assert json.loads((tmp_path / "out/norms.json").read_text())["settings"]["questions"] == 23
