"""What several models say together: the order of their entropies, their norms side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from adaptvis.diagnostics.attention.comparison import compare_entropy
from adaptvis.diagnostics.attention.result import AttentionResult
from adaptvis.diagnostics.norms import NormsResult
from adaptvis.diagnostics.results import Finding, Result

if TYPE_CHECKING:
    from adaptvis.diagnostics.report.run import Examined

__all__ = ["ACROSS", "across_models"]

Across = Callable[[Mapping[str, Result]], Finding | None]


def _entropy(results: Mapping[str, Result]) -> Finding:
    return compare_entropy({n: r for n, r in results.items() if isinstance(r, AttentionResult)})


def _norms(results: Mapping[str, Result]) -> Finding | None:
    ratios = {n: r.ratio for n, r in results.items() if isinstance(r, NormsResult)}
    parts = [f"{n} {r['value']:.3g}" for n, r in ratios.items() if r["value"] is not None]
    return Finding(
        "Models differ in how much longer their image tokens are than text (no published line)",
        "ratio of means: " + ", ".join(parts),
        None,
    )


ACROSS: Mapping[str, Across] = {"attention": _entropy, "norms": _norms}
"""By instrument: what its results on several models show together, if anything."""


def across_models(examined: Sequence[Examined]) -> list[tuple[str, Finding]]:
    """The findings over models, each with its instrument; none for a single model."""
    found = []
    for instrument, compare in ACROSS.items():
        results = {
            model.model: outcome.result
            for model in examined
            for outcome in model.outcomes
            if outcome.instrument == instrument and outcome.result is not None
        }
        finding = compare(results) if len(results) > 1 else None
        if finding is not None:
            found.append((instrument, finding))
    return found
