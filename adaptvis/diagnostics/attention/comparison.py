"""Entropies of several models over the same questions, in order (*Beyond Semantics*, table 4)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product

import numpy as np

from adaptvis.diagnostics.attention.result import AttentionResult
from adaptvis.diagnostics.clustered import clustered_mean
from adaptvis.diagnostics.intervals import above
from adaptvis.diagnostics.results import Finding
from adaptvis.evaluation.statistics import FEWEST_IMAGES

__all__ = ["compare_entropy"]

# A variant with both changes is the Multilayer one of the paper, so that is looked for first.
_VARIANTS = {
    "multilayer": ("multilayer",),
    "normalize": ("normalize",),
    "original": ("baseline", "original"),
}


def compare_entropy(results: Mapping[str, AttentionResult]) -> Finding:
    """Models by the entropy of their average text row, the highest first.

    Differences are paired: over the questions that both models were asked, with 95 % intervals
    clustered by image. The paper's order is judged where there are a model with "normalize", one
    with "multilayer" and one with "baseline" or "original" in its name: it holds where all of its
    differences are above 0, and does not where one is below; with fewer than 20 images in common
    this cannot tell.

    Args:
        results: of unsteered or steered models by name, as measured in this process; the unsteered
            look of each is compared.
    """
    values = {name: _mean(result) for name, result in results.items()}
    known = sorted(
        (name for name in values if np.isfinite(values[name])), key=lambda name: -values[name]
    )
    unknown = [name for name in values if name not in known]
    measured = "average text row: " + " > ".join(f"{name} {values[name]:.2f}" for name in known)
    measured += "".join(f", {name} not known" for name in unknown)
    roles: dict[str, list[str]] = {role: [] for role in _VARIANTS}
    for name in results:
        role = _role(name)
        if role is not None:
            roles[role].append(name)
    claimed: list[tuple[str, str]] = []
    if all(roles.values()):
        claimed += product(roles["normalize"], roles["original"])
        claimed += product(roles["original"], roles["multilayer"])
    differences = {pair: _difference(results, *pair) for pair in claimed or pairwise(known)}
    for (first, second), (text, _) in differences.items():
        measured += f"; {first} - {second} = {text}"
    verdicts = [differences[pair][1] for pair in claimed]
    holds = False if False in verdicts else True if verdicts and all(verdicts) else None
    return Finding(
        "Entropy over image tokens: + Normalize .90 > LLaVA-1.5 .76 > + Normalize + Multilayer "
        ".72 (2DS; Beyond Semantics, table 4)",
        measured,
        holds,
    )


def _role(name: str) -> str | None:
    for role, words in _VARIANTS.items():
        if any(word in name.lower() for word in words):
            return role
    return None


def _mean(result: AttentionResult) -> float:
    values = np.array([value for _, _, value in result.text_entropies])
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _difference(
    results: Mapping[str, AttentionResult], first: str, second: str
) -> tuple[str, bool | None]:
    """In words, and whether it is above 0; None where that cannot be told."""
    one, other = (
        {id_: (image, v) for id_, image, v in results[name].text_entropies if np.isfinite(v)}
        for name in (first, second)
    )
    common = [id_ for id_ in one if id_ in other and one[id_][0] == other[id_][0]]
    if not common:
        return "not known (no question in common)", None
    images = [one[id_][0] for id_ in common]
    found = clustered_mean([one[id_][1] - other[id_][1] for id_ in common], images).estimate()
    value, low, high = found["value"], found["low"], found["high"]
    count = len(set(images))
    if low is None or high is None:
        return f"{value:+.3f} ({count} image)", None
    text = f"{value:+.3f} [{low:+.3f}, {high:+.3f}] ({count} images)"
    if count < FEWEST_IMAGES:
        return text, None
    return text, above(0, low, high)
