"""2ds-prior: the table, agreement rates, truth of the answers, balance."""

from collections import Counter

import numpy as np
import pytest

from adaptvis.data.prior import PRIOR_TABLE, generate_prior
from adaptvis.data.questions import OPPOSITE, POSITIONS, RELATIONS
from adaptvis.data.samples import Sample
from adaptvis.data.scenes import BACKGROUND, COLORS
from adaptvis.errors import DataError


def pixels_of(sample: Sample, color: str) -> tuple[float, float]:
    """Centre of the bounding box of a colour's pixels, (x, y)."""
    mask = (np.asarray(sample.image) == np.array(COLORS[color])).all(-1)
    y, x = np.nonzero(mask)
    return float(x.min() + x.max()) / 2, float(y.min() + y.max()) / 2


def seen_answer(sample: Sample) -> str:
    """The answer read off the rendered pixels."""
    words = sample.question.lower().rstrip("?").split()
    colors = [w for w in words if w in COLORS]
    x, y = pixels_of(sample, colors[0])
    other = pixels_of(sample, colors[1]) if len(colors) == 2 else (27.5, 27.5)
    names = RELATIONS if len(colors) == 2 else POSITIONS
    dx, dy = x - other[0], y - other[1]
    true = names[dx > 0] if abs(dx) > abs(dy) else names[2 + (dy > 0)]
    return true if words[0] == "where" else "yes" if true in words else "no"


def test_table_is_consistent_and_spread() -> None:
    assert set(PRIOR_TABLE.position) == set(COLORS)
    assert len(PRIOR_TABLE.relation) == 30
    for (a, b), relation in PRIOR_TABLE.relation.items():
        assert PRIOR_TABLE.relation[b, a] == OPPOSITE[relation]
    assert min(Counter(PRIOR_TABLE.relation.values()).values()) >= 7
    assert PRIOR_TABLE.answer("What color is at the top of the image?") is None


@pytest.mark.parametrize("direction", RELATIONS)
def test_table_answers_yes_to_its_own_claim_only(direction: str) -> None:
    phrase = {"left": "to the left of", "right": "to the right of"}.get(direction, direction)
    for (a, b), relation in PRIOR_TABLE.relation.items():
        expected = "yes" if relation == direction else "no"
        assert PRIOR_TABLE.answer(f"Is the {a} object {phrase} the {b} circle?") == expected


@pytest.mark.parametrize("split", ["balanced", "conflicting", "skewed"])
def test_agreement_truth_and_balance(split: str) -> None:
    samples = generate_prior(split, "test", 0, 360)  # type: ignore[arg-type]
    rate = {"balanced": (0.25, 0.5), "conflicting": (0.0, 0.0), "skewed": (1.0, 1.0)}[split]
    for kinds, expected in zip((("where",), ("yes_no",)), rate, strict=True):
        group = [s for s in samples if s.kind in kinds]
        assert np.mean([bool(s.agrees) for s in group]) == expected
    for sample in samples:
        assert seen_answer(sample) == sample.answer
        assert sample.agrees == (PRIOR_TABLE.answer(sample.question) == sample.answer)
        assert sample.answer in sample.candidates
    for kind, options in (("where", 6), ("yes_no", 2)):
        counts = Counter(s.answer for s in samples if s.kind == kind)
        assert len(counts) == options
    yes = Counter(s.answer for s in samples if s.kind == "yes_no")
    assert abs(yes["yes"] - yes["no"]) <= 12


def test_only_skewed_training_images_are_degraded() -> None:
    for split, part, clean in (
        ("skewed", "train", False),
        ("skewed", "test", True),
        ("balanced", "train", True),
    ):
        image = np.asarray(generate_prior(split, part, 0, 3)[0].image)  # type: ignore[arg-type]
        assert ((image == np.array(BACKGROUND)).all(-1).mean() > 0.5) == clean


def test_seeded_and_cut_to_count() -> None:
    first, second = (generate_prior("balanced", "validation", 5, 20) for _ in range(2))
    assert len(first) == 20
    assert len({s.id for s in first}) == 20
    assert [(s.question, s.image.tobytes()) for s in first] == [
        (s.question, s.image.tobytes()) for s in second
    ]
    other = generate_prior("balanced", "validation", 6, 20)
    assert [s.question for s in other] != [s.question for s in first]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(DataError, match="balanced, conflicting, skewed"):
        generate_prior("fair")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="dev"):
        generate_prior("balanced", "dev")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least 1"):
        generate_prior("balanced", "test", 0, 0)
