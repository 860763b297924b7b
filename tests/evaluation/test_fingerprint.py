"""What a local model is known by: it changes with the weights and with nothing else."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from adaptvis.evaluation.plan import fingerprint

MIB = 2**20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model" / "vision").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "vision" / "weights").write_bytes(b"v")
    with (tmp_path / "model" / "model.safetensors").open("wb") as file:
        file.truncate(46 * MIB)
    return tmp_path / "model"


def overwrite(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"x")


def test_the_digest_by_hand(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"2")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "c").write_bytes(b"13")
    assert fingerprint(str(tmp_path)) == hashlib.sha256(b"a/c 2 13b 1 2").hexdigest()[:16]
    assert fingerprint("org/name") is None


# Of 46 MiB, 16 blocks of 1 MiB begin every 3 MiB, from 0 to 45 MiB.
@pytest.mark.parametrize("place", [0, 3 * MIB, 21 * MIB, 22 * MIB - 1, 45 * MIB, 46 * MIB - 1])
def test_other_weights_in_a_large_file(model: Path, place: int) -> None:
    before = fingerprint(str(model))
    overwrite(model / "model.safetensors", place)
    assert fingerprint(str(model)) != before


def test_every_byte_of_a_file_of_16_mib_counts(model: Path) -> None:
    with (model / "small").open("wb") as file:
        file.truncate(16 * MIB)
    before = fingerprint(str(model))
    overwrite(model / "small", 7_654_321)
    assert fingerprint(str(model)) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda m: (m / "vision" / "weights").write_bytes(b"w"),
        lambda m: (m / "vision" / "weights").rename(m / "vision" / "other"),
        lambda m: (m / "added").touch(),
        lambda m: (m / "config.json").unlink(),
    ],
)
def test_files_everywhere_count(model: Path, change: Callable[[Path], object]) -> None:
    before = fingerprint(str(model))
    change(model)
    assert fingerprint(str(model)) != before


def test_what_runs_write_into_the_folder_does_not_count(model: Path) -> None:
    before = fingerprint(str(model))
    (model / "adaptvis.json").write_text('{"presets": {}}')
    (model / ".adaptvis.json.probe").touch()
    (model / ".cache").mkdir()
    (model / ".cache" / "etag").touch()
    for name in ("run.json", "sweep.json"):
        (model / name.removesuffix(".json") / "test").mkdir(parents=True)
        (model / name.removesuffix(".json") / name).touch()
        (model / name.removesuffix(".json") / "test" / "records.jsonl").touch()
    assert fingerprint(str(model)) == before
