"""Scenes: determinism, geometry, disjoint splits, pixels."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptvis.data.scenes import (
    BACKGROUND,
    CANVAS,
    COLORS,
    SHAPES,
    Scene,
    SceneObject,
    check_part,
    degrade,
    draw_appearance,
    part_of,
    random_scene,
    render,
    render_array,
    shape_mask,
)
from adaptvis.errors import DataError


@given(seed=st.integers(0, 10**6), count=st.integers(2, 6))
@settings(max_examples=50, deadline=None)
def test_objects_lie_inside_and_apart(seed: int, count: int) -> None:
    scene = random_scene(random.Random(seed), count, "validation")
    assert len(scene.objects) == count
    assert len({o.color for o in scene.objects}) == count
    shapes = [o.shape for o in scene.objects]
    assert sum(shapes.count(s) == 1 for s in set(shapes)) >= 2
    painted = np.zeros((CANVAS, CANVAS), dtype=int)
    for o in scene.objects:
        assert o.radius <= min(o.x, o.y)
        assert max(o.x, o.y) + o.radius < CANVAS
        top, left, side = o.y - o.radius, o.x - o.radius, 2 * o.radius + 1
        painted[top : top + side, left : left + side] += 1
    assert painted.max() == 1


def test_same_seed_same_bytes() -> None:
    first, second = (render(random_scene(random.Random(5), 4, "train")) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert first.size == (CANVAS, CANVAS)


def test_signature_ignores_order_and_decides_the_split() -> None:
    scene = random_scene(random.Random(1), 4, "test")
    turned = Scene(scene.objects[::-1])
    assert turned.signature() == scene.signature()
    assert part_of(turned) == part_of(scene) == "test"
    assert np.array_equal(render_array(turned), render_array(scene))


def test_split_shares_are_80_10_10() -> None:
    rng = random.Random(0)
    parts = [
        part_of(
            Scene(
                (
                    SceneObject("red", "cross", rng.randint(9, 40), rng.randint(9, 40), 4),
                    SceneObject("blue", "circle", rng.randint(9, 40), i % 56, 5),
                )
            )
        )
        for i in range(4000)
    ]
    assert 0.77 < parts.count("train") / 4000 < 0.83
    assert 0.08 < parts.count("test") / 4000 < 0.12


@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_show_colour_and_background(shape: str) -> None:
    scene = Scene((SceneObject("red", shape, 20, 30, 6), SceneObject("cyan", "square", 45, 10, 4)))
    pixels = render_array(scene)
    assert tuple(pixels[30, 20]) == COLORS["red"]
    assert tuple(pixels[0, 0]) == BACKGROUND
    painted = (pixels != np.array(BACKGROUND)).any(-1)
    assert painted.sum() == shape_mask(shape, 6).sum() + shape_mask("square", 4).sum()


def test_shapes_differ_at_every_radius() -> None:
    for radius in range(4, 8):
        masks = [shape_mask(s, radius) for s in SHAPES]
        for i, a in enumerate(masks):
            for b in masks[i + 1 :]:
                assert (a != b).sum() >= 12


def test_scale_keeps_the_layout() -> None:
    scene = random_scene(random.Random(2), 3, "train")
    large = render_array(scene, 6)
    assert large.shape == (336, 336, 3)
    for o in scene.objects:
        assert tuple(large[o.y * 6 + 3, o.x * 6 + 3]) == COLORS[o.color]


def test_degrade_fades_and_is_seeded() -> None:
    pixels = render_array(random_scene(random.Random(2), 3, "train"))
    first, second = (degrade(pixels, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(first, second)
    silent = degrade(pixels, np.random.default_rng(1), (0.5, 0.5), (0.0, 0.0)).astype(float)
    assert np.abs(silent - (128 + 0.5 * (pixels.astype(float) - 128))).max() <= 0.5


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(DataError, match="2 to 6"):
        draw_appearance(random.Random(0), 7)
    with pytest.raises(DataError, match="train, validation, test"):
        check_part("dev")
    with pytest.raises(DataError, match="circle"):
        shape_mask("star", 4)


def test_boxes_hold_the_objects_pixels() -> None:
    scene = random_scene(random.Random(3), 4, "train")
    pixels = render_array(scene, scale=2)
    side = pixels.shape[0]
    ground = (pixels == pixels[0, 0]).all(axis=-1)
    for item in scene.objects:
        left, top, right, bottom = (round(edge * side) for edge in item.box)
        assert not ground[top:bottom, left:right].all()
        ground[top:bottom, left:right] = True
    assert ground.all()
