"""Squares, Shapes and Objects: three things in a row or a column, aligned to image tokens."""

from adaptvis.data.three_objects.drawing import OBJECTS, SHAPES, draw_pictures
from adaptvis.data.three_objects.items import (
    DIRECTIONS,
    KINDS,
    Item,
    Kind,
    Pair,
    all_items,
    draw_pairs,
    names_of,
)
from adaptvis.data.three_objects.layout import Axis, Box, Layout

__all__ = [
    "DIRECTIONS",
    "KINDS",
    "OBJECTS",
    "SHAPES",
    "Axis",
    "Box",
    "Item",
    "Kind",
    "Layout",
    "Pair",
    "all_items",
    "draw_pairs",
    "draw_pictures",
    "names_of",
]
