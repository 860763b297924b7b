"""Which option letter an answer gives: "(B)", "B.", "The answer is B", but not the B of "Bob".

Two published parsers stand here to the letter, and one of our own that is strict.
"""

import re
from collections.abc import Sequence

__all__ = ["cambrian_letter", "letters_mentioned", "lmms_eval_letter", "parse_letter"]

_LEADING = re.compile(r"[(\s]*([A-Z])[).\s]*", re.IGNORECASE)
_MARKED = re.compile(r"\(\s*([A-Za-z])\s*\)")
_ALONE = re.compile(r"\s*([A-Za-z])\s*(?:[).:,]|$)")
_NAMED = re.compile(r"\b(?:answer|option|choice)(?:\s+is)?\s*:?\s+([A-Z])\b(?!')", re.IGNORECASE)


def lmms_eval_letter(text: str) -> str:
    """The letter at the start, upper case, or "" (lmms-eval's CV-Bench).

    Any first letter counts: "The left one" gives T.
    """
    match = _LEADING.match(text.strip())
    return match.group(1).upper() if match else ""


def cambrian_letter(text: str) -> str:
    """The first character behind "answer is" without brackets and full stops, or "" (Cambrian).

    Case counts: "b" is not B.
    """
    after = text.split("answer is")[-1].strip()
    return re.sub(r"[().]", "", after).strip()[:1]


def letters_mentioned(text: str, letters: Sequence[str]) -> set[str]:
    """The option letters, upper case, that the text gives in a form that cannot be a word.

    Those are: in brackets; alone, or before a bracket, full stop, colon or comma, at the start;
    in upper case behind "answer", "option" or "choice".
    """
    found = {match.upper() for match in _MARKED.findall(text)}
    if match := _ALONE.match(text):
        found.add(match.group(1).upper())
    found |= {letter for letter in _NAMED.findall(text) if letter.isupper()}
    return found & {letter.upper() for letter in letters}


def parse_letter(text: str, letters: Sequence[str]) -> str:
    """The one letter that is mentioned, or without any one that the text starts with, or ""."""
    known = {letter.upper() for letter in letters}
    found = letters_mentioned(text, letters)
    if found:
        return found.pop() if len(found) == 1 else ""
    match = re.match(r"\s*\(?\s*([A-Za-z])\b(?!')", text)
    return match.group(1).upper() if match and match.group(1).upper() in known else ""
