"""The deterministic rule grader: normalised words, whole-word matching, no language model.

Two accuracies are reported side by side. *Free*: a right answer's words occur in the text, in
order. *Strict*: of the question's candidate answers the text mentions exactly one, a right one.
"The left or the right" is free-correct for gold "left", and strict-wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from adaptvis.tasks.options import letters_mentioned
from adaptvis.tasks.words import normalised_words, signs

__all__ = ["Grade", "grade", "mentioned"]


@dataclass(frozen=True, slots=True)
class Grade:
    """What the rule grader says of one answer.

    correct: the task's published rule, warts included; free scoring where none was published.
    strict: strict scoring; without candidates, the whole answer must equal a gold answer.
    in_candidates: the whole answer is one of the candidates, or of the gold answers without them.
    score: what the published rule gives, from 0 to 1, where it knows more than right and wrong
        (VQAv2); None means 1 for a correct answer and 0 for another.
    """

    correct: bool
    strict: bool
    in_candidates: bool
    score: float | None = None

    @property
    def points(self) -> float:
        """From 0 to 1 under the published rule."""
        return float(self.correct) if self.score is None else self.score


def mentioned(text: str, phrases: Sequence[str]) -> set[str]:
    """The phrases whose words occur in `text`; a word counts for one phrase only.

    Longer phrases take their words first, so "top left" does not also mention "left". The phrase
    "A" is mentioned as an option's letter is, not by an article. A phrase of signs alone is looked
    for among the signs.
    """
    of_text: list[str | None] = list(normalised_words(text))
    signs_of_text: list[str | None] = list(signs(text)) or of_text
    found = set()
    for phrase in sorted(phrases, key=lambda p: -len(normalised_words(p))):
        target = list(normalised_words(phrase))
        has_words = any(c.isalnum() for word in target for c in word)
        words = of_text if has_words else signs_of_text
        starts = range(len(words) - len(target) + 1) if target else range(0)
        for start in starts:
            if words[start : start + len(target)] == target:
                words[start : start + len(target)] = [None] * len(target)
                found.add(phrase)
        if target == ["a"] and letters_mentioned(text, "A"):
            found.add(phrase)
    return found


def grade(text: str, gold: Sequence[str], candidates: Sequence[str] = ()) -> Grade:
    """Grade one answer against the accepted answers and, where known, the candidates."""
    words = normalised_words(text)
    accepted = {normalised_words(g) for g in gold}
    options = {normalised_words(c) for c in candidates} or accepted
    if candidates:
        hits = {normalised_words(phrase) for phrase in mentioned(text, candidates)}
        strict = len(hits) == 1 and hits <= accepted
    else:
        strict = words in accepted
    return Grade(
        correct=any(mentioned(text, [g]) for g in gold),
        strict=strict,
        in_candidates=words in options,
    )
