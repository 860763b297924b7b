"""Text without what only typesets it, so that graders compare what was said."""

import re
import unicodedata

__all__ = ["plain_text", "visible"]

_SINGLE_QUOTES = "\u2018\u2019\u201b\u02bc`"
_DOUBLE_QUOTES = "\u201c\u201d\u201e\u201f\xab\xbb"
_QUOTES = str.maketrans(dict.fromkeys(_SINGLE_QUOTES, "'") | dict.fromkeys(_DOUBLE_QUOTES, '"'))
# They choose between two looks of the character before them, or put it into a box.
_SELECTORS = re.compile(r"[\ufe00-\ufe0f\U000e0100-\U000e01ef\u20dd-\u20e0\u20e2-\u20e4]")
_TAG = re.compile(r"</?[A-Za-z]+/?>")


def plain_text(text: str) -> str:
    """`text` without invisible characters and mark-up, its letters and quotes in plain forms.

    Full-width and styled letters become ASCII, curly quotes straight ones; zero-width characters,
    emphasis in asterisks and tags such as <b> go.
    """
    plain = unicodedata.normalize("NFKC", visible(text)).translate(_QUOTES)
    return _TAG.sub(" ", plain).replace("*", "")


def visible(text: str) -> str:
    """`text` without characters that do not show: zero-width ones, and those that choose a look."""
    shown = "".join(c for c in text if unicodedata.category(c) != "Cf")
    return _SELECTORS.sub("", shown)
