"""What somebody should know before using the chosen settings, as plain sentences."""

from collections.abc import Iterable, Iterator

from adaptvis.evaluation.statistics import RELIABLE_GAIN, Gain
from adaptvis.tuning.cuts import fewest_on_a_side
from adaptvis.tuning.luck import ACCEPTABLE_LUCK, Luck
from adaptvis.tuning.select import Selection
from adaptvis.tuning.sweep import Sweep

__all__ = ["RECOMMENDED_QUESTIONS", "advice"]

_EDGE = 1.2
RECOMMENDED_QUESTIONS = 2000
"""Below this a threshold overfitted badly on the embedded models, whatever the grid."""


def advice(
    sweep: Sweep,
    selection: Selection,
    luck: Luck,
    test_gains: Iterable[tuple[str, Gain]] = (),
) -> list[str]:
    """Warnings, the most important first; none where all is well.

    Args:
        test_gains: of each method over the baseline, on the test part.
    """
    found = [*_effects(selection, test_gains), *_questions(selection, luck)]
    found += _edges(sweep, selection)
    if not selection.exact:
        found.append(
            f"{selection.compared} settings were compared, not all: {selection.objective} has to "
            "be computed anew for each of them; a smaller grid is searched completely"
        )
    if sweep.unreadable:
        found.append(
            f"{sweep.unreadable} questions were left out because they could not be asked; "
            "sweep.jsonl says why"
        )
    return found


def _effects(selection: Selection, test_gains: Iterable[tuple[str, Gain]]) -> Iterator[str]:
    if selection.scaling_gain.verdict != RELIABLE_GAIN:
        yield (
            "ScalingVis has no significant gain over no steering in cross-validation: "
            + _kept(selection.steers, "alpha 1 (no steering) was chosen")
        )
    if selection.adaptvis_gain is None:
        yield (
            "AdaptVis could not be chosen, and both of its coefficients were set to ScalingVis's: "
            f"{selection.no_threshold}"
        )
    elif selection.adaptvis_gain.verdict != RELIABLE_GAIN:
        over = "ScalingVis" if selection.steers else "no steering"
        yield (
            f"AdaptVis has no significant gain over {over} in cross-validation: "
            + _kept(selection.adaptive, "both of its coefficients were set to ScalingVis's")
        )
    for name, gain in test_gains:
        if gain.verdict != RELIABLE_GAIN and (selection.steers or selection.adaptive):
            yield f"the gain of {name} over the baseline on the test part is not significant"


def _kept(kept: bool, otherwise: str) -> str:
    return "it was kept because you asked for it" if kept else otherwise


def _questions(selection: Selection, luck: Luck) -> Iterator[str]:
    few = f"{selection.questions} validation questions are few"
    if luck.points > ACCEPTABLE_LUCK:
        yield (
            f"{few} for the {selection.compared} settings compared: luck alone would make the best "
            f"of them look {100 * luck.points:.1f} points better; about {luck.questions} questions "
            f"would bring that to {100 * ACCEPTABLE_LUCK:.0f} points, and a smaller grid helps, too"
        )
    if selection.questions < RECOMMENDED_QUESTIONS:
        yield f"{few} for a threshold: {RECOMMENDED_QUESTIONS} or more are recommended"


def _edges(sweep: Sweep, selection: Selection) -> Iterator[str]:
    alphas = sweep.grid.alphas
    chosen: dict[float, list[str]] = {}
    if selection.steers:
        chosen.setdefault(selection.scaling.alpha, []).append("alpha")
    if selection.adaptive:
        chosen.setdefault(selection.adaptvis.alpha_low, []).append("alpha_low")
        chosen.setdefault(selection.adaptvis.alpha_high, []).append("alpha_high")
    for value, names in chosen.items():
        for edge, word in ((alphas[0], "smallest"), (alphas[-1], "largest")):
            if value == edge and value != 1:
                yield (
                    f"{' and '.join(names)} = {value:g} is the {word} coefficient of the grid; "
                    f"add {'smaller' if edge == alphas[0] else 'larger'} ones to --alphas"
                )
    if selection.adaptive:
        below = int((sweep.confidence < selection.adaptvis.threshold).sum())
        if min(below, selection.questions - below) <= _EDGE * fewest_on_a_side(selection.questions):
            yield (
                f"the threshold {selection.adaptvis.threshold:g} is at the edge of what was "
                f"searched: {below} of {selection.questions} questions lie below it, so a single "
                "coefficient may do as well"
            )
