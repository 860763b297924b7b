"""Which option an answer gives: "(B)", "B.", "The answer is B", but not the B of "Bob".

Published parsers stand here to the letter, beside one of our own that is strict.
"""

import re
from collections.abc import Sequence

from adaptvis.tasks.typography import plain_text

__all__ = [
    "cambrian_letter",
    "cambrian_option",
    "letters_mentioned",
    "lmms_eval_letter",
    "parse_letter",
]

_LEADING = re.compile(r"[(\s]*([A-Z])[).\s]*", re.IGNORECASE)

# A letter that ends its phrase; the full stop of "a.m." is none of one.
_ENDED = r"(?=\s*(?:[)\]:;,!?\"]|\.(?!\w\.)|$)|\s+[-\u2013\u2014]\s|[ \t]*\n)"
# Words that cannot follow an article.
_CLAUSE = r"(?=\s+(?:and|as|because|but|or|since)\b)"
_MARKED = re.compile(r"[(\[{]\s*([A-Za-z])\s*[)\]}]")
_ALONE = re.compile(rf"\s*[\"'_#]*([A-Za-z])['_]*{_ENDED}")
_OWN_LINE = re.compile(r"^[\s\"'_]*([A-Za-z])[\"'_]*[.)]?\s*$", re.MULTILINE)
_NAMED = re.compile(
    r"\b(?P<name>answer|option|choice)(?:\s+is)?(?:\s*:\s*|\s+)[\"'_]*(?P<letter>[A-Za-z])\b(?!')"
    rf"(?P<ended>['_]*{_ENDED}|{_CLAUSE})?",
    re.IGNORECASE,
)
# Words of one letter: "A cat" gives no option.
_WORDS = frozenset("AI")


def lmms_eval_letter(text: str) -> str:
    """The letter at the start, upper case, or "" (lmms-eval's CV-Bench).

    Any first letter counts: "The left one" gives T.
    """
    match = _LEADING.match(text.strip())
    return match.group(1).upper() if match else ""


def cambrian_option(text: str) -> str:
    """What Cambrian's MMVP grader, and *Beyond Semantics*' simple one, compare with letter or text.

    Lower case; what is behind the last "answer is" and "answer:", without full stops, colons and
    commas at its end and brackets around. "The answer is: b" gives ": b": the keyword with both
    words and colon is looked for when the words are gone already.
    """
    return _cambrian(text, ".:,")


def cambrian_letter(text: str) -> str:
    """The first character, lower case, that Cambrian's CV-Bench scripts compare with the letter.

    See :func:`cambrian_option`; "Both" gives b. (For Omni3D they accept a right option's text too,
    but after cutting the answer to one character, so it never is.)
    """
    return _cambrian(text, ".")[:1]


def _cambrian(text: str, ends: str) -> str:
    rest = text.lower().strip()
    for keyword in ("answer is", "answer is:", "answer:"):
        rest = rest.rpartition(keyword)[2]
    return rest.strip().rstrip(ends).lstrip("(").rstrip(")")


def letters_mentioned(text: str, letters: Sequence[str]) -> set[str]:
    """The option letters, upper case, that the text gives in a form that cannot be a word.

    Those are: in brackets; alone on a line; before a bracket or punctuation mark at the start;
    behind "answer", "option" or "choice", where small letters, and an answer's A and I, must end
    their phrase. Quotes, emphasis and invisible characters do not matter.
    """
    plain = plain_text(text)
    found = {*_MARKED.findall(plain), *_OWN_LINE.findall(plain)}
    if match := _ALONE.match(plain):
        found.add(match.group(1))
    for match in _NAMED.finditer(plain):
        letter = match["letter"]
        article = letter in _WORDS and match["name"].lower() == "answer"
        if match["ended"] is not None or (letter.isupper() and not article):
            found.add(letter)
    return {letter.upper() for letter in found} & {letter.upper() for letter in letters}


def parse_letter(text: str, letters: Sequence[str]) -> str:
    """The one letter that is mentioned, or without any one that the text starts with, or ""."""
    known = {letter.upper() for letter in letters}
    found = letters_mentioned(text, letters)
    if found:
        return found.pop() if len(found) == 1 else ""
    match = re.match(r"[\s\"'(]*([A-Za-z])\b(?![-'])", plain_text(text))
    letter = match.group(1).upper() if match else ""
    return letter if letter in known - _WORDS else ""
