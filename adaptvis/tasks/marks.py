"""Marks that stand for pictures in other people's texts: `<image>` of LLaVA's files and its kin.

An engine puts the pictures before the question itself. A mark left in the text would be taken for
one more picture by a processor that knows it, and for words by one that does not.
"""

import re

from adaptvis.errors import DataError

__all__ = ["question_text"]

IMAGE = "<image>"

_AT_THE_ENDS = re.compile(rf"\A(?:\s*{IMAGE})+\s*|\s*(?:{IMAGE}\s*)+\Z")
# What no text holds by accident: the placeholders of the known model families.
_MARK = re.compile(
    r"<(?:image|video|audio|image_soft_token|start_of_image|end_of_image|IMG_CONTEXT|VIDEO_CONTEXT"
    r"|global-img|fake_token_around_image)>"
    r"|<\|(?:image|video|audio|image_pad|video_pad|audio_pad|vision_pad|vision_start|vision_end)\|>"
)


def question_text(text: str, pictures: int, where: str) -> str:
    """A question without LLaVA's `<image>` at its ends, where there is one per picture.

    Args:
        where: starts error messages.

    Raises:
        DataError: another mark, in another place or number, whose picture cannot be told; or
            nothing besides marks.
    """
    marks = _MARK.findall(text)
    if not marks:
        return text
    bare = _AT_THE_ENDS.sub("", text)
    left = _MARK.search(bare)
    if left is None and len(marks) == pictures and bare:
        return bare
    mark = left[0] if left else IMAGE
    raise DataError(
        f"{where}: the question holds {mark} ({len(marks)} such marks, {pictures} pictures), and "
        "pictures are put before a question without one; leave it out, or write one "
        f"{IMAGE} per picture at the beginning or the end"
    )
