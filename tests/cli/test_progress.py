"""Progress goes to stderr, and only a terminal sees a spinner."""

import pytest

from adaptvis.cli.progress import working


def test_a_spinner_is_for_terminals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with working("summarising [bold]"):
        pass
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with working("summarising [bold]"):
        pass
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "summarising [bold]" in shown.err
