"""Three things in a row: what is asked, where it lies in tokens and pixels."""

import numpy as np
import pytest
from PIL import Image

from adaptvis.data.scenes import BACKGROUND, COLORS
from adaptvis.data.three_objects import (
    DIRECTIONS,
    OBJECTS,
    SHAPES,
    Item,
    Layout,
    all_items,
    draw_pairs,
    draw_pictures,
)
from adaptvis.errors import DataError

QWEN = Layout(grid=12, cell=28, size=2, spacing=2)
GEMMA = Layout(grid=16, cell=56, size=3, spacing=3)
TINY = Layout.for_grid(7, 8)


@pytest.mark.parametrize(("kind", "count"), [("squares", 480), ("shapes", 480), ("objects", 1344)])
def test_there_are_as_many_questions_as_published(kind, count):
    items = all_items(kind)
    assert len(items) == len(set(items)) == count
    assert all(len(set(item.names)) == 3 for item in items)
    assert {item.direction for item in items} == set(DIRECTIONS)


@pytest.mark.parametrize(
    ("direction", "prompt", "answer"),
    [
        ("left", "The color of the square to the left of the green square is", "red"),
        ("right", "The color of the square to the right of the green square is", "blue"),
        ("above", "The color of the square above the green square is", "red"),
        ("below", "The color of the square below the green square is", "blue"),
    ],
)
def test_the_published_prompt_and_the_answer(direction, prompt, answer):
    item = Item("squares", ("red", "green", "blue"), direction)
    assert item.prompt() == prompt
    assert item.answer == answer
    assert item.mirrored().answer == item.other_end != answer
    place = {"left": "on the left", "right": "on the right", "above": "at the top"}
    assert item.prompt("short").startswith(f"What color is {place.get(direction, 'at the')}")


def test_the_published_geometry():
    assert [tuple(s) for s in QWEN.slots("horizontal")] == [
        (5, 1, 7, 3),
        (5, 5, 7, 7),
        (5, 9, 7, 11),
    ]
    assert QWEN.canvas == 336
    assert [tuple(s) for s in QWEN.strips("horizontal")] == [(0, 0, 12, 4), (0, 8, 12, 12)]
    assert [tuple(s) for s in QWEN.strips("vertical")] == [(0, 0, 4, 12), (8, 0, 12, 12)]
    assert GEMMA.canvas == 896
    assert Layout(7, 8, 1, 1) == TINY


@pytest.mark.parametrize("layout", [QWEN, GEMMA, TINY, Layout.for_grid(24, 14), Layout(5, 8, 1, 1)])
@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_strips_hold_their_objects_at_the_same_place_and_no_other(layout, axis):
    columns = layout.grid
    first, middle, last = (set(slot.tokens(columns)) for slot in layout.slots(axis))
    low, high = (strip.tokens(columns) for strip in layout.strips(axis))
    assert first < set(low)
    assert last < set(high)
    assert not middle & (set(low) | set(high))
    assert not set(low) & set(high)
    # Token n of one strip is token n of the other: object on object.
    assert [low.index(t) for t in sorted(first)] == [high.index(t) for t in sorted(last)]


@pytest.mark.parametrize("axis", ["horizontal", "vertical"])
def test_objects_fill_their_tokens_and_nothing_else(axis):
    direction = "left" if axis == "horizontal" else "above"
    pixels = np.asarray(Item("squares", ("red", "green", "blue"), direction).image(QWEN))
    cells = pixels.reshape(12, 28, 12, 28, 3).transpose(0, 2, 1, 3, 4).reshape(144, -1, 3)
    expected = dict.fromkeys(range(144), BACKGROUND)
    for name, slot in zip(("red", "green", "blue"), QWEN.slots(axis), strict=True):
        expected |= dict.fromkeys(slot.tokens(12), COLORS[name])
    for token, colour in expected.items():
        assert (cells[token] == colour).all(), token


@pytest.mark.parametrize(("kind", "names"), [("shapes", SHAPES), ("objects", OBJECTS)])
def test_drawn_things_differ_clearly_from_each_other_and_from_the_ground(kind, names):
    pictures = {n: np.asarray(p, float) for n, p in draw_pictures(kind, 56).items()}
    assert tuple(pictures) == names
    values = list(pictures.values())
    for index, one in enumerate(values):
        assert np.abs(one - np.array(BACKGROUND)).mean() > 10
        assert all(np.abs(one - other).mean() > 5 for other in values[:index])


def test_crops_of_photographs_can_take_the_place_of_drawn_things():
    crops = {n: Image.new("RGB", (90, 40), (i, 2 * i, 9)) for i, n in enumerate("abc")}
    scene = Item("objects", ("c", "a", "b"), "left").image(QWEN, crops)
    assert scene.getpixel((30, 150)) == (2, 4, 9)


def test_a_counterfactual_shares_the_middle_only_and_asks_the_opposite():
    pairs = draw_pairs("squares", 50)
    assert pairs == draw_pairs("squares", 50)
    assert pairs != draw_pairs("squares", 50, seed=1)
    assert len({p.clean.direction for p in pairs}) == 4
    for pair in pairs:
        c0, c1, c2 = pair.clean.names
        c4, same, c3 = pair.counterfactual.names
        assert same == c1
        assert len({c0, c1, c2, c3, c4}) == 5
        assert {pair.clean.direction, pair.counterfactual.direction} in (
            {"left", "right"},
            {"above", "below"},
        )
        wanted = (c0, c2, c3, c4) if pair.clean.asks_first else (c2, c0, c4, c3)
        assert pair.candidates == wanted


def test_what_does_not_fit_is_refused_in_one_sentence():
    with pytest.raises(DataError, match="need 10 tokens, but the picture has 9"):
        Layout(9, 8, 2, 2)
    with pytest.raises(DataError, match="5 different names are needed and 4 are there"):
        draw_pairs("shapes", 2, names=SHAPES[:4])
    with pytest.raises(DataError, match="Unknown kind 'cubes'"):
        all_items("cubes")
    with pytest.raises(DataError, match="at least 1, got 0"):
        draw_pairs("squares", 0)


def test_no_picture_comes_twice():
    five = ["red", "green", "blue", "yellow", "purple"]
    for count in (50, 120):
        pairs = draw_pairs("squares", count, names=five)
        assert len({(pair.clean.names, pair.clean.axis) for pair in pairs}) == count
    with pytest.raises(DataError, match="make 120 different pictures, got 121 pairs"):
        draw_pairs("squares", 121, names=five)
