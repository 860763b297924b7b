"""The protocol between engines and everything above them.

Evaluation, tuning and diagnostics talk to an :class:`Engine` and do not know which one runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL.Image import Image

from adaptvis.config import SteeringConfig
from adaptvis.errors import PromptError
from adaptvis.pictures import as_rgb

__all__ = ["Answer", "Engine", "Query"]


@dataclass(frozen=True)
class Query:
    """One prompt with its images, in the order of the prompt's image placeholders.

    prompt: the user's text without image placeholders; the engine applies the model's chat
        template and puts the images before the text.
    images: of any mode of Pillow's; kept in RGB and upright (:func:`adaptvis.pictures.as_rgb`), so
        that every engine, region and overlay is about the same pixels.
    raw: send ``prompt`` to the processor as it is, placeholders included, without a template.

    Raises:
        PromptError: an image is not Pillow's.
        DataError: an image cannot be made RGB.
    """

    prompt: str
    images: tuple[Image, ...] = ()
    raw: bool = False

    def __post_init__(self) -> None:
        for image in self.images:
            if not isinstance(image, Image):
                raise PromptError(
                    f"Images must be PIL images, got {type(image).__name__}; open files with "
                    "PIL.Image.open, and arrays with PIL.Image.fromarray"
                )
        object.__setattr__(self, "images", tuple(as_rgb(image) for image in self.images))


@dataclass(frozen=True)
class Answer:
    """What an engine answered under one steering configuration.

    confidence: largest softmax probability of the first generated token before attention is
        steered.
    alpha: the coefficient that was used; 1.0 where nothing was steered.
    applied: whether the steered pass ran for this prompt; ``reason`` says why not.
    """

    text: str
    token_ids: tuple[int, ...]
    confidence: float
    alpha: float
    applied: bool
    reason: str = ""


@runtime_checkable
class Engine(Protocol):
    """Answers batches of queries under steering configurations."""

    name: str

    def answer(
        self,
        queries: Sequence[Query],
        configs: Sequence[SteeringConfig | None],
        *,
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        """Greedy answers: ``result[c][q]`` for configuration ``c`` and query ``q``.

        A configuration of None is the unsteered model. The unsteered prefill is computed once
        and shared by every configuration.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Model, dtype, device, attention and library versions, for ``summary.json``."""
        ...
