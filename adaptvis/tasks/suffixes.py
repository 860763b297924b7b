"""What LLaVA's evaluations append to questions, so that answers are short enough to compare."""

__all__ = ["OPTION_LETTER", "SHORT_ANSWER"]

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
OPTION_LETTER = "\nAnswer with the option's letter from the given choices directly."
