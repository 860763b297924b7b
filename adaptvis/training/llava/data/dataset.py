"""LLaVA-format conversations as training samples; neither samples nor images stay in memory."""

import warnings
from array import array
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from adaptvis.errors import AdaptVisWarning, ConfigError, DataError, UnsupportedError, unknown_name
from adaptvis.tasks.images import inside, open_image
from adaptvis.training.llava.data.conversations import (
    IMAGE,
    Conversation,
    parse_conversation,
    place_of,
)
from adaptvis.training.llava.data.index import index_samples
from adaptvis.training.llava.data.prompts import ChatTemplate, PromptStyle, plain_text
from adaptvis.training.llava.data.tokens import (
    IGNORED,
    ImageTokens,
    Tokens,
    expand_images,
    tokenise,
    truncate,
)

__all__ = ["ConversationDataset", "image_tokens_of"]

_CACHED = 16384
_LONGEST_CACHED = 400


class ConversationDataset(Dataset[dict[str, Tensor]]):
    """Samples of a LLaVA JSON array or JSONL file, tokenised with their labels.

    An item is `input_ids` and `labels`, int64 [n] (-100 without loss), and, with images,
    `pixel_values`, float32 [images, 3, height, width]. Workers of a DataLoader may be forked or
    spawned; an item depends on its index only.

    Args:
        path: `[{"id", "image", "conversations"}]`, or one such object per line.
        image_folder: images are named relative to it and cannot lie outside.
        processor: of the model to train, with a fast tokenizer.
        limit: use the first samples only.
        prompt_style: "chat" (the processor's chat template) or "plain" (LLaVA's stage 1).
        max_length: longer samples are cut at the end, never inside an image; None cuts nothing.

    Attributes:
        lengths: estimated tokens per sample, negative for a sample without image.
        image_tokens: what one image becomes.
        without_loss: samples met so far (in this process) of which nothing was left to learn.

    Raises:
        DataError: the file cannot be read; on access, a sample is malformed or its image missing.
        ConfigError: unknown prompt_style, or limit or max_length below 1.
        UnsupportedError: the processor cannot be trained with.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        image_folder: str | Path | None,
        processor: Any,
        limit: int | None = None,
        prompt_style: PromptStyle = "chat",
        max_length: int | None = None,
    ) -> None:
        if prompt_style not in ("chat", "plain"):
            raise ConfigError(unknown_name("prompt_style", prompt_style, ("chat", "plain")))
        for name, value in (("limit", limit), ("max_length", max_length)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1 or None, got {value}")
        self.path = Path(path)
        self.image_folder = None if image_folder is None else Path(image_folder)
        self.processor = processor
        self.prompt_style = prompt_style
        self.max_length = max_length
        self.image_tokens = image_tokens_of(processor)
        self.template = None if prompt_style == "plain" else _template(processor)
        self.without_loss = 0
        self._cache: dict[Conversation, Tokens] = {}
        lengths = array("q")
        self.index = index_samples(
            self.path,
            limit=limit,
            visit=lambda sample: lengths.append(_estimate(sample, self.image_tokens.count)),
        )
        self.lengths: list[int] = lengths.tolist()

    def __len__(self) -> int:
        return len(self.index)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": {}, "without_loss": 0}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        conversation, where = self.conversation(index)
        tokens = self.tokens(conversation, where)
        if (tokens.labels == IGNORED).all():
            self.without_loss += 1
            warnings.warn(
                f"{where}: nothing is left to learn (its answers are empty or beyond max_length "
                f"{self.max_length}), so it adds nothing to the loss",
                AdaptVisWarning,
                stacklevel=2,
            )
        item = {
            "input_ids": torch.from_numpy(tokens.ids.copy()),
            "labels": torch.from_numpy(tokens.labels.copy()),
        }
        if conversation.images:
            item["pixel_values"] = self._pixels(conversation.images, where)
        return item

    def conversation(self, index: int) -> tuple[Conversation, str]:
        """The checked conversation of a sample, and how messages name the sample.

        Raises:
            IndexError: no such sample.
            DataError: the sample is malformed.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has samples 0 to {len(self) - 1}, not {index}")
        sample = self.index.read(index)
        where = place_of(self.path, index, sample)
        return parse_conversation(sample, where), where

    def tokens(self, conversation: Conversation, where: str) -> Tokens:
        """Ids and labels, images expanded, cut to `max_length`."""
        # Short texts repeat (captions, questions of a template); images' names do not matter.
        key = Conversation(conversation.turns)
        tokens = self._cache.get(key)
        if tokens is None:
            token = self.processor.image_token
            if self.template is None:
                text = plain_text(conversation, token, where)
            else:
                text = self.template.text(conversation, where)
            tokens = tokenise(self.processor.tokenizer, text)
            if len(text.text) <= _LONGEST_CACHED and len(self._cache) < _CACHED:
                self._cache[key] = tokens
        tokens = expand_images(tokens, self.image_tokens, len(conversation.images), where)
        if self.max_length is None:
            return tokens
        return truncate(tokens, self.max_length, self.image_tokens, where)

    def image_paths(self, names: tuple[str, ...], where: str) -> list[Path]:
        """The files of a sample's images, links resolved.

        Raises:
            DataError: no image folder was given, or a file lies outside it.
        """
        if self.image_folder is None:
            raise DataError(f"{where}: it has images and no image folder was given")
        return [inside(self.image_folder, name, where) for name in names]

    def _pixels(self, names: tuple[str, ...], where: str) -> Tensor:
        pictures = [open_image(path, where) for path in self.image_paths(names, where)]
        pixels = _pixel_values(self.processor, pictures)
        expected = (self.image_tokens.height, self.image_tokens.width)
        if tuple(pixels.shape[-2:]) != expected:
            raise DataError(
                f"{where}: the processor makes an image of {tuple(pixels.shape[-2:])} pixels where "
                f"others have {expected}; use a processor that crops or pads to one size"
            )
        return pixels


def image_tokens_of(processor: Any) -> ImageTokens:
    """What one image becomes under this processor, found by processing a blank one.

    Raises:
        UnsupportedError: the processor has no single image token or gives several views per image.
    """
    token = getattr(processor, "image_token", None)
    ids = [] if token is None else processor.tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1 or not hasattr(processor, "replace_image_token"):
        raise UnsupportedError(
            f"{type(processor).__name__} has no single image token; a LLaVA processor is expected"
        )
    pixels = _pixel_values(processor, [Image.new("RGB", (64, 64))])
    if pixels.ndim != 4 or len(pixels) != 1:
        raise UnsupportedError(
            f"{type(processor).__name__} makes {tuple(pixels.shape)} of one image; one picture per "
            "image is expected, as in LLaVA-1.5"
        )
    expansion = processor.replace_image_token({"pixel_values": pixels}, 0)
    count = expansion.count(token)
    if not count or token * count != expansion:
        raise UnsupportedError(
            f"{type(processor).__name__} writes {expansion!r:.60} for an image; repetitions of "
            f"{token!r} are expected"
        )
    return ImageTokens(ids[0], count, *pixels.shape[-2:])


def _pixel_values(processor: Any, pictures: list[Image.Image]) -> Tensor:
    pixels: Tensor = processor.image_processor(pictures, return_tensors="pt")["pixel_values"]
    return pixels.float()


def _template(processor: Any) -> ChatTemplate:
    if getattr(processor, "chat_template", None) is None:
        raise UnsupportedError(
            "The processor has no chat template; add chat_template.jinja to the model's folder, or "
            "train with prompt_style 'plain'"
        )
    tokenizer = processor.tokenizer
    if not tokenizer.eos_token:
        raise UnsupportedError("The tokenizer has no end-of-sequence token; answers need an end")

    # Nothing nested: spawned workers pickle it.
    return ChatTemplate(
        partial(_render, processor), tokenizer.eos_token, tuple(tokenizer.all_special_tokens)
    )


def _render(processor: Any, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
    return str(
        processor.apply_chat_template(
            messages, add_generation_prompt=add_generation_prompt, tokenize=False
        )
    )


def _estimate(sample: Any, image_tokens: int) -> int:
    """Tokens of a sample, about: four bytes each, and two around each turn; never 0."""
    if not isinstance(sample, dict):
        return -1
    turns = sample.get("conversations")
    total = 1
    for turn in turns if isinstance(turns, list) else ():
        value = turn.get("value") if isinstance(turn, dict) else None
        total += 2 + (len(value.replace(IMAGE, "")) // 4 if isinstance(value, str) else 0)
    named = sample.get("image")
    images = len(named) if isinstance(named, list) else int(named is not None)
    return total + images * image_tokens if images else -total
