"""The words of an answer in any script, as graders compare them.

Punctuation parts words and is none, and neither is what only typesets or vocalises them. Scripts
that put no blanks between words (Chinese, Japanese, Thai, Lao, Khmer, Burmese) give one word per
character, so that a phrase is found wherever its characters follow each other.
"""

import re
import unicodedata

from adaptvis.tasks.typography import plain_text, visible

__all__ = ["normalised_words", "signs"]

_ARTICLES = frozenset({"a", "an", "the"})
# Marks that may be left out in writing: Hebrew points, Arabic vowel signs; and the Arabic filler.
_OPTIONAL = re.compile(
    r"[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670]"
)
_WITHOUT_BLANKS = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uaa60-\uaa7f\U00020000-\U0003ffff]"
)
# Twelve is not a two.
_CHINESE_NUMERALS = frozenset("〇零一二两三四五六七八九十百千万")
_SIGNS = re.compile(r"(?:[^\w\s]|_)+")
_SENTENCE_MARKS = ".,;:!?\"'()[]{}_\u3001\u3002\u300c\u300d"


def normalised_words(text: str) -> tuple[str, ...]:
    """Lower-case words of `text` without punctuation and articles.

    Where there are articles only they stay: "A" may name an option. Where there are no words at
    all, signs stay: "+", or a thumb.
    """
    words = _words(text)
    found = tuple(w for w in words if w not in _ARTICLES) or tuple(words)
    return found or signs(text) or _runs_of_signs(text)


def signs(text: str) -> tuple[str, ...]:
    """What is neither word nor blank, without the marks that sentences end or begin with."""
    return tuple(sign for run in _runs_of_signs(text) if (sign := run.strip(_SENTENCE_MARKS)))


def _words(text: str) -> list[str]:
    plain = _OPTIONAL.sub("", plain_text(text).replace("'", "").lower())
    words: list[str] = []
    before = ""
    for character in unicodedata.normalize("NFKC", plain):
        kind = _kind(character, before)
        if kind == "mark":
            words[-1] += character
            continue
        if kind == before and kind in ("letter", "numeral"):
            words[-1] += character
        elif kind:
            words.append(character)
        before = kind
    return words


def _kind(character: str, before: str) -> str:
    """What a character is to a word, given the kind of the last: empty outside words."""
    if not character.isalnum():
        # Vowel signs of Indic scripts, accents that have no letter of their own.
        return "mark" if before and unicodedata.category(character) in ("Mn", "Mc") else ""
    if character in _CHINESE_NUMERALS:
        return "numeral"
    alone = _WITHOUT_BLANKS.match(character) and not character.isdecimal()
    return "alone" if alone else "letter"


def _runs_of_signs(text: str) -> tuple[str, ...]:
    # Asterisks are emphasis, unless they are all there is.
    runs: list[str] = _SIGNS.findall(plain_text(text)) or _SIGNS.findall(visible(text))
    return tuple(runs)
