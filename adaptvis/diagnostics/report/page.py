"""The page: findings at the top, then each instrument's pictures, one model beside the other."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from adaptvis.diagnostics.report.across import across_models
from adaptvis.diagnostics.report.run import Examined, Outcome
from adaptvis.diagnostics.results import Finding, Result, finite, picture_of, verdict
from adaptvis.diagnostics.wording import flat, short
from adaptvis.errors import OutputError
from adaptvis.evaluation.output import write_atomically
from adaptvis.evaluation.report.text import one_line, visible

__all__ = ["PAGE", "write_page"]

PAGE = "report.html"
_CLASSES = {True: "holds", False: "fails", None: "unclear"}


@dataclass(frozen=True)
class _Claim:
    """A claim, and for each model what was found of it."""

    instrument: str
    source: str
    text: str
    findings: list[list[Finding]]


def write_page(
    examined: Sequence[Examined], folder: Path, *, command: str, about: Mapping[str, Any]
) -> Path:
    """Write ``report.html``: one file, no script, no network, everything escaped.

    Args:
        command: how to repeat the whole report.
        about: what was asked (task, questions, seed, steering), as plain values.

    Raises:
        OutputError: the folder cannot be written.
    """
    environment = Environment(
        loader=PackageLoader("adaptvis.diagnostics.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "line": one_line,
        "visible": visible,
        "short": short,
        "flat": lambda values: flat(finite(values)),
        "verdict": verdict,
        "css": _CLASSES.__getitem__,
        "picture": _picture,
    }
    loader = environment.loader
    assert loader is not None
    style, _, _ = loader.get_source(environment, "report.css")
    page = environment.get_template("report.html").render(
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii"),
        models=examined,
        claims=_claims(examined),
        across=across_models(examined),
        sections=_sections(examined),
        command=command,
        about=about,
    )
    path = folder / PAGE
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot write the report into {folder}: {error.strerror}; give another folder"
        ) from None
    write_atomically(path, page)
    return path


def _picture(result: Result) -> str:
    """The result's picture as a data URI; empty where it cannot be drawn."""
    try:
        content = picture_of(result)
    except Exception:  # The numbers and what they say are worth a page without it.
        return ""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _claims(examined: Sequence[Examined]) -> list[_Claim]:
    claims: dict[tuple[str, str], _Claim] = {}
    for index, model in enumerate(examined):
        for outcome in model.outcomes:
            for finding in outcome.result.findings() if outcome.result else ():
                assert outcome.result is not None
                claim = claims.setdefault(
                    (outcome.instrument, finding.claim),
                    _Claim(
                        outcome.instrument,
                        outcome.result.source,
                        finding.claim,
                        [[] for _ in examined],
                    ),
                )
                claim.findings[index].append(finding)
    # In the order of the instruments, whichever model they failed on.
    order = [name for name, _ in _sections(examined)]
    return sorted(claims.values(), key=lambda claim: order.index(claim.instrument))


def _sections(examined: Sequence[Examined]) -> list[tuple[str, list[Outcome]]]:
    """The outcomes of each instrument, one per model."""
    names = dict.fromkeys(o.instrument for model in examined for o in model.outcomes)
    return [
        (name, [o for model in examined for o in model.outcomes if o.instrument == name])
        for name in names
    ]
