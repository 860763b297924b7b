"""Questions about three objects for one model: on its token grid, in words that it knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptvis.data.three_objects import Item, Kind, Layout, names_of
from adaptvis.data.three_objects.items import SYSTEM_PROMPT, Wording
from adaptvis.engine import Query
from adaptvis.errors import DataError, PromptError, UnsupportedError
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.geometry import image_token_boxes

__all__ = ["Questions", "answer_tokens", "layout_of"]

_QWEN_GRID = 12
# Tokens per side of an object, where it is not a sixth of the grid.
_PUBLISHED_OBJECTS = {("gemma3", 16): 3}


def layout_of(engine: HFEngine) -> Layout:
    """Three objects on this model's grid of image tokens, as published for the paper's models.

    Raises:
        UnsupportedError: a square picture is not one plain square grid of tokens in this model.
    """
    side = _canvas(engine)
    boxes = image_token_boxes(engine.processor, engine.model.config, (side, side))
    grid = math.isqrt(len(boxes))
    cell = side // max(grid, 1)
    corner = torch.arange(grid, dtype=boxes.dtype) * cell
    expected = torch.stack(
        [corner.repeat(grid), corner.repeat_interleave(grid)] * 2, dim=1
    ) + torch.tensor([0, 0, cell, cell], dtype=boxes.dtype)
    if len(boxes) != grid * grid or cell * grid != side or not torch.allclose(boxes, expected):
        raise UnsupportedError(
            f"A picture of {side} x {side} pixels is {len(boxes)} image tokens of this model that "
            "do not form one square grid; the three-object instruments need a model and processor "
            "settings without tiles and class tokens"
        )
    size = _PUBLISHED_OBJECTS.get((engine.family.model_type, grid))
    if size is None:
        return Layout.for_grid(grid, cell)
    return Layout(grid, cell, size, size)


def _canvas(engine: HFEngine) -> int:
    processor = engine.processor.image_processor
    merge = getattr(processor, "merge_size", None)
    if merge:
        return _QWEN_GRID * int(merge) * int(processor.patch_size)
    for name in ("crop_size", "size"):
        size = dict(getattr(processor, name, None) or {})
        for edge in ("height", "shortest_edge", "longest_edge"):
            if size.get(edge):
                return int(size[edge])
    raise UnsupportedError(
        "The image processor has neither crop_size nor size, so the token grid is not known"
    )


def answer_tokens(engine: HFEngine, name: str) -> tuple[int, ...]:
    """The single tokens that spell a name: lower case, Capitalised, each also after a space.

    Raises:
        DataError: the tokenizer has no single token for it.
    """
    tokenizer = engine.processor.tokenizer
    forms = (form for word in (name.lower(), name.capitalize()) for form in (word, f" {word}"))
    found = []
    for form in forms:
        ids = tokenizer(form, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
            found.append(int(ids[0]))
    if not found:
        raise DataError(f"{name!r} is no single token of this model; leave it out of the names")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Questions:
    """How one kind of three-object questions is put to a model.

    names: those of the kind that are single tokens. tokens: of each name.
    """

    engine: HFEngine
    kind: Kind
    layout: Layout
    wording: Wording
    names: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]

    @classmethod
    def for_model(
        cls, engine: HFEngine, kind: Kind = "squares", wording: Wording | None = None
    ) -> Questions:
        """Layout, names and wording for a model.

        Args:
            wording: default is "published", or "short" where the tokenizer lacks its words.

        Raises:
            UnsupportedError: see :func:`layout_of`. DataError: fewer than three names are known.
        """
        names, tokens = [], []
        for name in names_of(kind):
            try:
                tokens.append(answer_tokens(engine, name))
            except DataError:
                continue
            names.append(name)
        if len(names) < 3:
            raise DataError(
                f"Of the {kind} this model's tokenizer spells {len(names)} as single tokens, and "
                "three are needed; choose another kind"
            )
        if wording is None:
            text = Item(kind, (names[0], names[1], names[2]), "left").prompt()
            unknown = engine.processor.tokenizer.unk_token_id
            ids = engine.processor.tokenizer(f"{SYSTEM_PROMPT} {text}")["input_ids"]
            wording = "short" if unknown is not None and unknown in ids else "published"
        layout = layout_of(engine)
        return cls(engine, kind, layout, wording, tuple(names), tuple(tokens))

    def query(self, item: Item) -> Query:
        """The question as the engine takes it; the published wording comes with a system prompt."""
        text, image = item.prompt(self.wording), item.image(self.layout)
        if self.wording == "short":
            return Query(text, (image,))
        content = [{"type": "image"}, {"type": "text", "text": text}]
        messages = [
            {"role": "system", "content": [{"type": "text", "text": SYSTEM_PROMPT}]},
            {"role": "user", "content": content},
        ]
        try:
            raw = self.engine.processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        except (ValueError, TypeError) as error:
            raise PromptError(
                f"The processor's chat template refuses a system prompt ({error}); use the short "
                "wording"
            ) from None
        return Query(str(raw), (image,), raw=True)

    def encode(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """A batch of questions, padded on the left."""
        return self.engine.encode([self.query(item) for item in items])

    def probabilities(self, logits: Tensor) -> Tensor:
        """Summed probability of each name's spellings: float32 [B, names], on the CPU."""
        probabilities = logits.softmax(dim=-1)
        return torch.stack(
            [probabilities[:, list(ids)].sum(dim=-1) for ids in self.tokens], dim=1
        ).cpu()

    def index(self, name: str) -> int:
        """Column of a name in :meth:`probabilities`."""
        return self.names.index(name)
