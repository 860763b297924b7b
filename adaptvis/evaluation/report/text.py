"""How numbers and foreign texts are written in the report."""

import json
import unicodedata
from typing import Any

from markupsafe import Markup

__all__ = ["json_for_script", "one_line", "per_cent", "signed_points", "visible"]

_KEPT = {"\n", "\t", "\u200c", "\u200d"}
_LONGEST = 4000


def visible(text: str, longest: int = _LONGEST) -> str:
    """Text without control and direction characters, which would rearrange what stands around."""
    shown = "".join(
        "\ufffd" if unicodedata.category(c) in {"Cc", "Cf", "Cs"} and c not in _KEPT else c
        for c in text[: longest + 1]
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def one_line(text: str, longest: int = 200) -> str:
    """:func:`visible` text with single spaces."""
    return visible(" ".join(text.split()), longest)


def per_cent(fraction: float, digits: int = 1) -> str:
    """A fraction as a number of per cent, without the sign."""
    return f"{100 * fraction:.{digits}f}"


def signed_points(fraction: float) -> str:
    """A difference in percentage points with its sign; no sign where it rounds to 0."""
    value = 100 * fraction
    if not round(value, 1):
        return "0.0"
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def json_for_script(value: Any) -> Markup:
    """JSON that stands inside a script element without ending it or opening a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
