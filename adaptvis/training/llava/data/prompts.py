"""The text of a conversation, and which of its characters the model has to produce.

`chat` is the processor's own template, so a model is trained on the text that it is asked with:
the template with its generation prompt, then the answer and the end of sequence. `plain` is the
format of LLaVA's first stage: the image, the caption, a line feed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from adaptvis.errors import DataError, UnsupportedError
from adaptvis.training.llava.data.conversations import Conversation

__all__ = ["ChatTemplate", "PromptStyle", "Span", "TrainingText", "plain_text"]

PromptStyle = Literal["chat", "plain"]


class Span(NamedTuple):
    """Characters that the model has to produce: [prompt_end, stop), words from `answer` on.

    Between `prompt_end` (the end of the generation prompt) and `answer` lies what a template puts
    before an answer, mostly one space.
    """

    prompt_end: int
    answer: int
    stop: int


@dataclass(frozen=True, slots=True)
class TrainingText:
    """Text with one placeholder per image, and the spans to learn, in order."""

    text: str
    spans: tuple[Span, ...]


def plain_text(conversation: Conversation, image_token: str, where: str) -> TrainingText:
    """LLaVA's `preprocess_plain`: `<image>` + caption + line feed; the human's words are dropped.

    Raises:
        DataError: not one human turn with an image and one answer.
    """
    turns = conversation.turns
    if len(turns) != 2 or not turns[0].images:
        raise DataError(
            f"{where}: prompt_style 'plain' takes one human turn with an image and one caption, "
            f"got {len(turns)} turns and {len(conversation.images)} images"
        )
    prompt = image_token * turns[0].images
    text = f"{prompt}{turns[1].text}\n"
    return TrainingText(text, (Span(len(prompt), len(prompt), len(text)),))


class ChatTemplate:
    """Renders conversations with a processor's chat template.

    Args:
        render: (messages, add_generation_prompt) -> text.
        end_of_sequence: put after an answer where the template itself ends it with white space
            only (llava-hf's template does; LLaVA was trained with `</s>` there).
        end_markers: tokens that may end an answer besides: the tokenizer's special tokens.
    """

    def __init__(
        self,
        render: Callable[[list[dict[str, Any]], bool], str],
        end_of_sequence: str,
        end_markers: tuple[str, ...] = (),
    ) -> None:
        self.render = render
        self.end_of_sequence = end_of_sequence
        self.end_markers = (end_of_sequence, *(m for m in end_markers if m != end_of_sequence))

    def text(self, conversation: Conversation, where: str) -> TrainingText:
        """The whole conversation; every answer but an empty one is to be learnt.

        Raises:
            UnsupportedError: the template does not repeat a conversation's beginning or its
                answers as they are, so the words to learn cannot be found in its text.
        """
        messages = [_message(turn.role, turn.text, turn.images) for turn in conversation.turns]
        pieces: list[str] = []
        spans: list[Span] = []
        length = 0
        written = ""
        for number in range(1, len(messages), 2):
            prompt = self.render(messages[:number], True)
            rendered = self.render(messages[: number + 1], False)
            answer = conversation.turns[number].text
            if not (rendered.startswith(prompt) and prompt.startswith(written)):
                raise UnsupportedError(
                    f"{where}: the chat template writes turn {number} differently once it is "
                    "answered; a template whose text only grows is needed for training"
                )
            separator, tail = self._around(rendered[len(prompt) :], answer, where, number)
            end = self._end(tail, where)
            before = prompt[len(written) :] + separator
            prompt_end = length + len(prompt) - len(written)
            start = length + len(before)
            pieces += [before, answer, end]
            length = start + len(answer) + len(end)
            if answer.strip():
                spans.append(Span(prompt_end, start, length))
            # What follows an end marker (a line feed in ChatML) opens the next turn's text.
            rest = tail.removeprefix(end) if tail.startswith(end) else ""
            written = rendered[: len(rendered) - len(rest)]
        return TrainingText("".join(pieces), tuple(spans))

    @staticmethod
    def _around(rest: str, answer: str, where: str, number: int) -> tuple[str, str]:
        """What the template puts before and after an answer."""
        position = rest.find(answer) if answer else len(rest) - len(rest.lstrip())
        if position < 0 or rest[:position].strip():
            raise UnsupportedError(
                f"{where}: the chat template does not repeat the answer of turn {number} as it is "
                f"but writes {rest!r:.80}; trim the answer, or mend the template"
            )
        return rest[:position], rest[position + len(answer) :]

    def _end(self, tail: str, where: str) -> str:
        words = tail.lstrip()
        marker = next((m for m in self.end_markers if m and words.startswith(m)), None)
        if marker is not None:
            return tail[: len(tail) - len(words)] + marker
        if words:
            raise UnsupportedError(
                f"{where}: the chat template puts {tail!r:.40} after an answer; expected "
                f"{self.end_of_sequence!r}, another special token or white space"
            )
        return self.end_of_sequence


def _message(role: str, text: str, images: int) -> dict[str, Any]:
    pictures = [{"type": "image"} for _ in range(images)]
    return {"role": role, "content": [*pictures, {"type": "text", "text": text}]}
