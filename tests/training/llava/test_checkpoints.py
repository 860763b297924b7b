"""A checkpoint counts when it is whole."""

from adaptvis.training.llava.checkpoints import last_complete, mark_complete, remove_incomplete


def written(stage, step, *, complete=True):
    folder = stage / f"checkpoint-{step}"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "sub" / "optimizer.pt").write_bytes(b"moments")
    if complete:
        mark_complete(folder)
    return folder


def test_the_newest_by_number_not_by_name(tmp_path):
    written(tmp_path, 9)
    assert last_complete(tmp_path) != written(tmp_path, 8)
    assert last_complete(tmp_path) == tmp_path / "checkpoint-9"
    assert last_complete(tmp_path) != written(tmp_path, 10, complete=False)
    assert last_complete(tmp_path) == tmp_path / "checkpoint-9"
    written(tmp_path, 11)
    assert last_complete(tmp_path) == tmp_path / "checkpoint-11"


def test_a_file_that_is_missing_or_short_makes_it_no_checkpoint(tmp_path):
    short, missing = written(tmp_path, 2), written(tmp_path, 3)
    whole = written(tmp_path, 1)
    (short / "model.safetensors").write_bytes(b"weigh")
    (missing / "sub" / "optimizer.pt").unlink()
    assert last_complete(tmp_path) == whole
    remove_incomplete(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]


def test_no_folder_and_no_checkpoint_are_none(tmp_path):
    assert last_complete(tmp_path / "stage-1") is None
    (tmp_path / "checkpoint-x").mkdir()
    assert last_complete(tmp_path) is None
