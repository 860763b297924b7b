"""What interchange interventions say of the paper's claims, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adaptvis.diagnostics.intervals import above
from adaptvis.diagnostics.results import Finding
from adaptvis.diagnostics.share import Share
from adaptvis.evaluation.statistics import FEWEST_IMAGES

if TYPE_CHECKING:
    from adaptvis.diagnostics.interchange import InterchangeResult

__all__ = ["findings_of"]


def findings_of(result: InterchangeResult) -> list[Finding]:
    """Each claim of sections 4 and 5; none where a model that guesses decides nothing."""
    able = result.accuracy.above(result.chance) is True
    found = [_strips(result), _last_token(result), _middle_layers(result), _encoder(result)]
    if able:
        return found
    note = f"; the model answers {result.accuracy} rightly, not above chance"
    return [Finding(f.claim, f.measured + note, None) for f in found]


def _strips(result: InterchangeResult) -> Finding:
    strip, thing = (result.flipped[region][0] for region in ("strip", "object"))
    holds = _more(strip, thing)
    if not any(strip):
        # Neither kind of exchange can be the stronger one where the strips do nothing.
        holds = None
    elif holds is True and result.flips["strip"][0].above(0.5) is not True:
        holds = result.flips["strip"][0].above(0.5)
    return Finding(
        "Exchanging whole strips of image tokens flips the answer, exchanging the objects' own "
        "tokens alone does not",
        f"At the language model's input strips flip {result.flips['strip'][0]} right answers, "
        f"objects {result.flips['object'][0]}",
        holds,
    )


def _last_token(result: InterchangeResult) -> Finding:
    wins = [row[1] for row in result.winners]
    best = max(range(len(wins)), key=lambda slot: wins[slot])
    share = Share(wins[best], result.accuracy.total)
    return Finding(
        "In some layers the last token carries which place is asked for, not yet the name",
        f"At best (slot {best} of {len(wins)}) an interchange gave the clean picture's other end "
        f"for {share} pairs",
        share.above(0.5, looks=len(wins)),
    )


def _middle_layers(result: InterchangeResult) -> Finding:
    claim = "In intermediate layers the language model puts the order onto the objects' tokens"
    shares = result.flips["object"]
    if len(shares) < 2:
        return Finding(claim, "This language model has one layer", None)
    layer = max(range(1, len(shares)), key=lambda index: shares[index].count)
    looks = len(shares) - 1
    flips = shares[layer].above(0.5, looks=looks)
    later = _more(result.flipped["object"][layer], result.flipped["object"][0], looks=looks)
    axes = ", ".join(
        f"{axis} {tables['object'][layer].count} of {tables['object'][layer].total}"
        for axis, tables in result.by_axis.items()
    )
    return Finding(
        claim,
        f"Exchanging them before layer {layer} flips {shares[layer]} ({axes}), at the input "
        f"{shares[0]}; the best of {looks} layers",
        False if flips is False or later is False else True if flips and later else None,
    )


def _encoder(result: InterchangeResult) -> Finding:
    return Finding(
        "Most of the order of things comes from the vision encoder",
        f"Without its places {result.lost} of the right answers are lost",
        result.lost.above(0.5),
    )


def _more(first: Sequence[bool], second: Sequence[bool], *, looks: int = 1) -> bool | None:
    """Whether the first is true of more pairs than the second, judged on pairs that differ.

    The sign test's form of a paired comparison: of the pairs where only one is true, is it the
    first in more than half? None where fewer than 20 pairs were asked, or that is not clear.
    """
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    if len(first) < FEWEST_IMAGES:
        return None
    if not only_first and any(second):
        # As many flips or more with the second, and none that only the first brings.
        return False
    share = Share(only_first, only_first + only_second)
    low, high = share.widened(looks)
    return above(0.5, low, high)
