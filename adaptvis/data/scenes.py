"""Scenes: a few coloured shapes on a grey square, and how they become pixels.

Everything is on an integer grid of 56 x 56 cells, so a scene is a short exact description, two
equal scenes are byte-identical images, and `render(scene, scale=6)` gives the same picture at
336 x 336 for larger models. Beyond Semantics, section 5.1.1: coloured shapes whose positions vary.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adaptvis.errors import DataError

__all__ = [
    "CANVAS",
    "COLORS",
    "SHAPES",
    "Part",
    "Scene",
    "SceneObject",
    "degrade",
    "draw_appearance",
    "part_of",
    "place",
    "random_scene",
    "render",
    "render_array",
]

Part = Literal["train", "validation", "test"]

CANVAS = 56
"""Side of a scene in grid cells (one pixel each at scale 1)."""
BACKGROUND = (128, 128, 128)
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "green": (40, 180, 60),
    "blue": (45, 70, 225),
    "yellow": (240, 220, 50),
    "purple": (170, 50, 190),
    "cyan": (60, 210, 225),
}
SHAPES = ("circle", "square", "triangle", "cross")
MIN_RADIUS, MAX_RADIUS = 4, 7


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One shape: centre (x to the right, y down) and half-size, in grid cells."""

    color: str
    shape: str
    x: int
    y: int
    radius: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) as fractions of the canvas."""
        left, top = (self.x - self.radius) / CANVAS, (self.y - self.radius) / CANVAS
        side = (2 * self.radius + 1) / CANVAS
        return left, top, left + side, top + side


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects that do not touch; their order has no meaning."""

    objects: tuple[SceneObject, ...]

    def signature(self) -> str:
        """Canonical text of the scene: equal for two scenes exactly if their images are equal."""
        parts = (f"{o.color} {o.shape} {o.x},{o.y},{o.radius}" for o in self.objects)
        return "; ".join(sorted(parts))


def part_of(scene: Scene) -> Part:
    """The only split that may contain this scene: 80 % train, 10 % validation, 10 % test.

    A hash of the scene decides, so the splits are disjoint for every seed and every generator.
    """
    digest = hashlib.sha256(scene.signature().encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % 10
    return "validation" if bucket == 8 else "test" if bucket == 9 else "train"


def check_part(part: str) -> None:
    """Raises DataError unless `part` names a split."""
    if part not in get_args(Part):
        raise DataError(f"Unknown split {part!r}: choose one of {', '.join(get_args(Part))}.")


def draw_appearance(rng: random.Random, count: int) -> list[tuple[str, str]]:
    """`count` (colour, shape) pairs: colours all different, at least two shapes occur once.

    A colour therefore always names one object, and so do at least two of the shapes.

    Raises:
        DataError: `count` is below 2 or above the number of colours.
    """
    if not 2 <= count <= len(COLORS):
        raise DataError(f"A scene has 2 to {len(COLORS)} objects, not {count}.")
    colors = rng.sample(list(COLORS), count)
    while True:
        shapes = [rng.choice(SHAPES) for _ in range(count)]
        if sum(shapes.count(s) == 1 for s in SHAPES) >= 2:
            return list(zip(colors, shapes, strict=True))


def place(rng: random.Random, appearance: list[tuple[str, str]]) -> Scene:
    """Puts the given objects at random positions with random sizes; bounding boxes are disjoint."""
    while True:
        objects: list[SceneObject] = []
        for color, shape in appearance:
            radius = rng.randint(MIN_RADIUS, MAX_RADIUS)
            for _ in range(20):
                x = rng.randint(radius + 1, CANVAS - radius - 2)
                y = rng.randint(radius + 1, CANVAS - radius - 2)
                if all(max(abs(x - o.x), abs(y - o.y)) > radius + o.radius + 1 for o in objects):
                    objects.append(SceneObject(color, shape, x, y, radius))
                    break
            else:
                break
        if len(objects) == len(appearance):
            return Scene(tuple(objects))


def random_scene(rng: random.Random, count: int, part: Part) -> Scene:
    """A scene of `count` objects that belongs to the split `part`."""
    while True:
        scene = place(rng, draw_appearance(rng, count))
        if part_of(scene) == part:
            return scene


@cache
def shape_mask(shape: str, radius: int, scale: int = 1) -> NDArray[np.bool_]:
    """Boolean mask [side, side], side = (2 radius + 1) scale, of a shape in its bounding box."""
    side = (2 * radius + 1) * scale
    half = side / 2
    y, x = np.mgrid[0:side, 0:side] + 0.5
    dx, dy = np.abs(x - half), np.abs(y - half)
    match shape:
        case "circle":
            mask = dx**2 + dy**2 <= half**2
        case "square":
            mask = np.maximum(dx, dy) <= 0.87 * half
        case "triangle":
            mask = dx <= 0.5 * y
        case "cross":
            mask = (np.minimum(dx, dy) <= 0.3 * half) & (np.maximum(dx, dy) <= half)
        case _:
            raise DataError(f"Unknown shape {shape!r}: choose one of {', '.join(SHAPES)}.")
    mask.setflags(write=False)
    return mask


def render_array(scene: Scene, scale: int = 1) -> NDArray[np.uint8]:
    """The picture as RGB array [56 scale, 56 scale, 3]."""
    image = np.empty((CANVAS * scale, CANVAS * scale, 3), dtype=np.uint8)
    image[:] = BACKGROUND
    for o in scene.objects:
        mask = shape_mask(o.shape, o.radius, scale)
        top, left = (o.y - o.radius) * scale, (o.x - o.radius) * scale
        box = image[top : top + mask.shape[0], left : left + mask.shape[1]]
        box[mask] = COLORS[o.color]
    return image


def render(scene: Scene, scale: int = 1) -> Image.Image:
    """The picture as an RGB image of side 56 `scale` pixels."""
    return Image.fromarray(render_array(scene, scale))


def degrade(
    image: NDArray[np.uint8],
    rng: np.random.Generator,
    contrast: tuple[float, float] = (0.05, 0.4),
    noise: tuple[float, float] = (20.0, 60.0),
) -> NDArray[np.uint8]:
    """Fades the picture towards the background and adds Gaussian noise.

    Contrast factor and noise deviation (in 0-255 levels) are drawn uniformly from their ranges,
    once per image.
    """
    factor, deviation = rng.uniform(*contrast), rng.uniform(*noise)
    background = np.array(BACKGROUND, dtype=np.float32)
    faded = background + factor * (image.astype(np.float32) - background)
    noisy = faded + deviation * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
