"""The commands of the normalised checkpoint's tutorial, read from its README."""

from __future__ import annotations

import io
import re
import runpy
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from adaptvis.cli.app import main

__all__ = ["FOLDER", "command", "commands", "python_blocks", "run", "shortened"]

FOLDER = Path(__file__).parents[2] / "examples" / "normalized_checkpoint"
_FEWER = {"--images": "24", "--limit": "24"}


def _section(number: int) -> str:
    """The text below the README's heading of that number, counted from 1."""
    return (FOLDER / "README.md").read_text(encoding="utf-8").split("\n## ")[number]


def _blocks(language: str, section: int) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _section(section), re.MULTILINE | re.DOTALL)


def commands(section: int = 1) -> list[list[str]]:
    """Words of every command line of a section's shell blocks, in order."""
    lines = "".join(_blocks("sh", section)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def command(name: str, section: int = 1) -> list[str]:
    """The only command whose second word is, or ends in, this name."""
    (found,) = [words for words in commands(section) if words[1].endswith(name)]
    return found


def python_blocks(section: int = 1) -> list[str]:
    """Source of a section's Python blocks."""
    return _blocks("python", section)


def shortened(words: list[str]) -> list[str]:
    """The same command with little to do: two steps in each stage, few images and questions."""
    words = [
        _FEWER.get(before, word) for before, word in zip(["", *words[:-1]], words, strict=True)
    ]
    return [*words, "--max-steps", "2"] if words[1] == "train" else words


def run(words: list[str]) -> str:
    """What a command prints, run in this process and the current folder."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        if words[0] == "adaptvis":
            patch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as ended:
                main()
            assert not ended.value.code, words
        else:
            assert words[0] == "python", words
            patch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
    return said.getvalue()
