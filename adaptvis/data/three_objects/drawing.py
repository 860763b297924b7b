"""Pictures of squares, shapes and objects, and a scene of three of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from PIL import Image, ImageDraw

from adaptvis.data.scenes import BACKGROUND, COLORS
from adaptvis.data.three_objects.layout import Axis, Layout
from adaptvis.pictures import as_rgb

__all__ = ["OBJECTS", "SHAPES", "SQUARES", "blank", "draw_pictures", "paste"]

_SHAPE_COLOR = (45, 70, 225)
_SUPERSAMPLING = 4

# Corners and lines in hundredths of the picture's side.
_POLYGONS: dict[str, Sequence[tuple[float, float]]] = {
    "triangle": [(50, 4), (97, 95), (3, 95)],
    "diamond": [(50, 2), (98, 50), (50, 98), (2, 50)],
    "star": [
        *((50, 2), (62, 36), (98, 36), (69, 58), (80, 94)),
        *((50, 72), (20, 94), (31, 58), (2, 36), (38, 36)),
    ],
    "cross": [
        *((35, 2), (65, 2), (65, 35), (98, 35), (98, 65), (65, 65)),
        *((65, 98), (35, 98), (35, 65), (2, 65), (2, 35), (35, 35)),
    ],
    "square": [(6, 6), (94, 6), (94, 94), (6, 94)],
}
SQUARES: tuple[str, ...] = tuple(COLORS)
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross", "star", "diamond")


def _ball(pen: ImageDraw.ImageDraw, at: Callable[..., list[float]]) -> None:
    pen.ellipse(at(4, 4, 96, 96), fill=(220, 110, 40))
    pen.line(at(50, 4, 50, 96), fill="black", width=round(at(5)[0]))
    pen.line(at(4, 50, 96, 50), fill="black", width=round(at(5)[0]))


def _book(pen: ImageDraw.ImageDraw, at: Callable[..., list[float]]) -> None:
    pen.rectangle(at(14, 8, 86, 92), fill=(130, 30, 50))
    pen.rectangle(at(26, 12, 82, 88), fill=(245, 240, 225))
    for y in (30, 46, 62):
        pen.line(at(34, y, 74, y), fill=(90, 90, 90), width=round(at(4)[0]))


def _clock(pen: ImageDraw.ImageDraw, at: Callable[..., list[float]]) -> None:
    pen.ellipse(at(4, 4, 96, 96), fill=(245, 245, 245), outline="black", width=round(at(6)[0]))
    pen.line(at(50, 50, 50, 20), fill="black", width=round(at(6)[0]))
    pen.line(at(50, 50, 72, 60), fill="black", width=round(at(6)[0]))


def _cup(pen: ImageDraw.ImageDraw, at: Callable[..., list[float]]) -> None:
    pen.arc(at(56, 32, 94, 72), -90, 90, fill=(60, 130, 200), width=round(at(9)[0]))
    pen.rectangle(at(14, 20, 72, 88), fill=(60, 130, 200))


def _fish(pen: ImageDraw.ImageDraw, at: Callable[..., list[float]]) -> None:
    pen.polygon(at(66, 50, 96, 22, 96, 78), fill=(240, 150, 60))
    pen.ellipse(at(4, 24, 78, 76), fill=(240, 150, 60))
    pen.ellipse(at(18, 40, 28, 50), fill="black")


def _house(pen: ImageDraw.ImageDraw, at: Callable[..., list[float]]) -> None:
    pen.rectangle(at(14, 44, 86, 94), fill=(225, 200, 150))
    pen.polygon(at(50, 6, 96, 46, 4, 46), fill=(170, 50, 40))
    pen.rectangle(at(42, 62, 60, 94), fill=(100, 60, 30))


def _tree(pen: ImageDraw.ImageDraw, at: Callable[..., list[float]]) -> None:
    pen.rectangle(at(42, 60, 58, 96), fill=(110, 70, 30))
    pen.ellipse(at(12, 4, 88, 68), fill=(40, 140, 60))


def _key(pen: ImageDraw.ImageDraw, at: Callable[..., list[float]]) -> None:
    pen.ellipse(at(4, 32, 42, 70), outline=(200, 160, 20), width=round(at(10)[0]))
    pen.rectangle(at(40, 46, 96, 56), fill=(200, 160, 20))
    pen.rectangle(at(70, 56, 78, 74), fill=(200, 160, 20))
    pen.rectangle(at(86, 56, 94, 70), fill=(200, 160, 20))


_DRAWN: dict[str, Callable[[ImageDraw.ImageDraw, Callable[..., list[float]]], None]] = {
    "ball": _ball,
    "book": _book,
    "clock": _clock,
    "cup": _cup,
    "fish": _fish,
    "house": _house,
    "key": _key,
    "tree": _tree,
}
OBJECTS: tuple[str, ...] = tuple(_DRAWN)


def draw_pictures(kind: str, side: int) -> dict[str, Image.Image]:
    """What a scene is made of: RGB pictures of ``side`` pixels on its plain ground, by name.

    Squares are full squares of six colours; shapes and objects are drawn within theirs. For crops
    of photographs give a mapping of your own wherever one of these is taken.
    """
    if kind == "squares":
        return {name: Image.new("RGB", (side, side), rgb) for name, rgb in COLORS.items()}
    names = SHAPES if kind == "shapes" else OBJECTS
    return {name: _drawn(name, kind, side) for name in names}


def _drawn(name: str, kind: str, side: int) -> Image.Image:
    large = side * _SUPERSAMPLING
    picture = Image.new("RGB", (large, large), BACKGROUND)
    pen = ImageDraw.Draw(picture)

    def at(*hundredths: float) -> list[float]:
        return [h * large / 100 for h in hundredths]

    if kind == "objects":
        _DRAWN[name](pen, at)
    elif name == "circle":
        pen.ellipse(at(3, 3, 97, 97), fill=_SHAPE_COLOR)
    else:
        corners = [h for corner in _POLYGONS[name] for h in corner]
        pen.polygon(at(*corners), fill=_SHAPE_COLOR)
    return picture.resize((side, side), Image.Resampling.BOX)


def blank(layout: Layout) -> Image.Image:
    """The scene's plain ground without objects."""
    return Image.new("RGB", (layout.canvas, layout.canvas), BACKGROUND)


def paste(
    layout: Layout,
    axis: Axis,
    pictures: Mapping[str, Image.Image],
    names: Sequence[str | None],
) -> Image.Image:
    """The scene with one picture per slot, first to last; None leaves a slot empty."""
    scene = blank(layout)
    side = layout.size * layout.cell
    for name, slot in zip(names, layout.slots(axis), strict=True):
        if name is not None:
            picture = as_rgb(pictures[name]).resize((side, side))
            scene.paste(picture, (slot.left * layout.cell, slot.top * layout.cell))
    return scene
