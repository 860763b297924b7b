"""Three objects in one photograph: halves of two of What'sUp's staged pictures side by side.

Dual Mechanisms, appendix: the left half of ``<l>_left_of_<mid>`` beside the right half of
``<r>_right_of_<mid>``, for a middle object in the middle of both photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from adaptvis.errors import DataError
from adaptvis.pictures import as_rgb
from adaptvis.tasks.images import inside, open_image

__all__ = ["MIDDLES", "MergedItem", "merge_halves", "merged_items", "side_for"]

MIDDLES = ("chair", "table", "armchair")
_SUFFIXES = (".jpeg", ".jpg", ".png")
_SIDES = {"qwen2_vl": 336, "qwen2_5_vl": 336, "gemma3": 896, "pixtral": 512}


@dataclass(frozen=True)
class MergedItem:
    """A question about two merged photographs.

    left, middle, right: names of the objects; direction is "left" or "right" of the middle one.
    """

    left: str
    middle: str
    right: str
    direction: str
    left_file: Path
    right_file: Path

    @property
    def answer(self) -> str:
        return self.left if self.direction == "left" else self.right

    @property
    def other_end(self) -> str:
        return self.right if self.direction == "left" else self.left

    @property
    def prompt(self) -> str:
        """As published, with its last space."""
        return f"The object on the floor to the {self.direction} of the {self.middle} is a(n) "

    def image(self, side: int = 336) -> Image.Image:
        """The merged picture, RGB, ``side`` x ``side`` pixels.

        Raises:
            DataError: a photograph cannot be read.
        """
        # As What'sUp's own tasks are asked: with the pixels as they are stored.
        left, right = (open_image(f, upright=False) for f in (self.left_file, self.right_file))
        return merge_halves(left, right, side)


def side_for(model_type: str) -> int:
    """Side of a merged picture in pixels, as published; 336 for a model not in the paper."""
    return _SIDES.get(model_type, 336)


def merge_halves(left: Image.Image, right: Image.Image, side: int) -> Image.Image:
    """The left half of one picture beside the right half of another, resized to a square."""
    if side < 2:
        raise DataError(f"A merged picture needs a side of at least 2 pixels, got {side}")
    merged = as_rgb(left).copy()
    size = merged.size
    middle = size[0] // 2
    other = as_rgb(right)
    other = other.resize(size) if other.size != size else other
    merged.paste(other.crop((middle, 0, *size)), (middle, 0))
    return merged.resize((side, side), Image.Resampling.BICUBIC)


def merged_items(
    folder: str | Path, *, is_known: Callable[[str], bool] = lambda name: True
) -> list[MergedItem]:
    """Every pair of photographs that can be merged, asked in both directions.

    Args:
        folder: What'sUp's ``controlled_images``, with names such as
            ``beer-bottle_left_of_armchair.jpeg``.
        is_known: which object names can be answers: those of one token, as published.

    Raises:
        DataError: there is no such folder, or it holds nothing to merge.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; give What'sUp's controlled_images, unpacked")
    found: dict[tuple[str, str], dict[str, Path]] = {}
    for name, relation, middle, path in _photographs(folder):
        if is_known(name):
            found.setdefault((middle, relation), {})[name] = path
    items = [
        MergedItem(left, middle, right, direction, left_file, right_file)
        for middle in MIDDLES
        for left, left_file in sorted(found.get((middle, "left_of"), {}).items())
        for right, right_file in sorted(found.get((middle, "right_of"), {}).items())
        if left != right
        for direction in ("left", "right")
    ]
    if not items:
        raise DataError(
            f"{folder} holds no photographs to merge; names such as mug_left_of_chair.jpeg and "
            "book_right_of_chair.jpeg are expected"
        )
    return items


def _photographs(folder: Path) -> Iterator[tuple[str, str, str, Path]]:
    for entry in sorted(folder.iterdir()):
        if entry.suffix.lower() not in _SUFFIXES:
            continue
        for relation in ("left_of", "right_of"):
            name, found, middle = entry.stem.partition(f"_{relation}_")
            if found and name and middle in MIDDLES:
                path = inside(folder, entry.name, str(folder))
                yield name.replace("-", " "), relation, middle, path
