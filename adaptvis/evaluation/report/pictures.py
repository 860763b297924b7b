"""Pictures as small data URIs, each stored once however many examples show it."""

import base64
import io
from collections.abc import Callable, Sequence

from PIL import Image

from adaptvis.evaluation.records import Record
from adaptvis.pictures import as_rgb

__all__ = ["LONGEST_SIDE", "OpenPictures", "Pictures", "data_uri"]

LONGEST_SIDE = 480
"""Pixels; larger pictures are scaled down to it."""

OpenPictures = Callable[[Record], Sequence[Image.Image]]
"""Opens the images of a record's question, in their order."""


def data_uri(image: Image.Image, longest: int = LONGEST_SIDE) -> str:
    """PNG or JPEG, whichever is smaller, as a `data:` URI."""
    picture = as_rgb(image).copy()
    picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    encoded = {}
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": 80})):
        content = io.BytesIO()
        picture.save(content, kind, **options)
        encoded[kind] = content.getvalue()
    kind = min(encoded, key=lambda k: len(encoded[k]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode('ascii')}"


class Pictures:
    """The pictures that a document embeds.

    uris: in the order in which they were first shown.
    """

    def __init__(self, open_pictures: OpenPictures | None) -> None:
        self._open = open_pictures
        self._known: dict[str, int] = {}
        self.uris: list[str] = []

    def of(self, record: Record) -> tuple[list[int], str]:
        """Positions in :attr:`uris`, and a note where the pictures cannot be shown."""
        if self._open is None:
            return [], "The picture is not shown: the task was not at hand to reopen it."
        try:
            images = self._open(record)
        except Exception as error:
            return [], f"The picture cannot be reopened: {error}"
        return [self._position(data_uri(image)) for image in images], ""

    def _position(self, uri: str) -> int:
        if uri not in self._known:
            self._known[uri] = len(self.uris)
            self.uris.append(uri)
        return self._known[uri]
