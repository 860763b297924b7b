"""Default folders."""

from pathlib import Path

from adaptvis.cli.outputs import default_output


def test_a_new_run_gets_the_first_free_folder_and_resuming_the_last_one(tmp_path: Path) -> None:
    base = tmp_path / "out"
    assert default_output(base, resume=False) == base
    assert default_output(base, resume=True) == base
    for name in ("out", "out-2", "out-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.jsonl").write_text("{}\n")
    assert default_output(base, resume=False) == tmp_path / "out-4"
    assert default_output(base, resume=True) == tmp_path / "out-3"
