"""The record that evaluation consumes: one image, one question, one right answer."""

from dataclasses import dataclass

from PIL import Image

__all__ = ["Sample"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about one image.

    `image_id` is shared by the questions of one image (errors cluster by it). `agrees` is set in
    the prior splits only: whether the shortcut table gives the right answer. `asked` are the boxes
    (left, top, right, bottom) of the objects that the question is about, as fractions of the image.
    """

    id: str
    image_id: str
    image: Image.Image
    question: str
    answer: str
    category: str
    kind: str
    object_count: int
    candidates: tuple[str, ...]
    agrees: bool | None = None
    asked: tuple[tuple[float, float, float, float], ...] = ()
