"""The shapes that are measured: head shapes of three models, batches and contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# "smoke" is for the interpreter: it exercises the code and measures nothing.
Size = Literal["smoke", "quick", "full"]

BYTES = 2  # Everything is bfloat16.


@dataclass(frozen=True)
class Model:
    """The shapes of a language model; image_tokens: of one image, window: of its local layers."""

    name: str
    heads: int
    groups: int
    head_size: int
    hidden: int
    vocabulary: int
    image_tokens: int
    window: int | None = None


MODELS = {
    model.name: model
    for model in (
        Model("llava-1.5-7b", 32, 32, 128, 4096, 32064, 576),
        Model("qwen2.5-vl-7b", 28, 4, 128, 3584, 152064, 324),
        Model("gemma-3-4b", 8, 4, 256, 2560, 262208, 256, window=1024),
    )
}
# Head sizes that no model above has, for tuning.
SMALL_HEADS = Model("head size 64", 16, 8, 64, 2048, 32064, 576)
TINY = Model("tiny", 2, 1, 64, 96, 70, 5, window=16)


@dataclass(frozen=True)
class AttentionShape:
    """``rows`` query rows of each request, the last of its ``columns`` tokens.

    compiled: FlexAttention is measured too; its compilation takes longer than all else together.
    """

    batch: int
    rows: int
    columns: int
    window: int | None = None
    compiled: bool = False

    @property
    def text(self) -> str:
        window = "" if self.window is None else f", window {self.window}"
        rows = "" if self.rows == self.columns else f", {self.rows} row{'s' * (self.rows > 1)}"
        return f"batch {self.batch}, context {self.columns}{rows}{window}"

    def cache_bytes(self, model: Model) -> int:
        return 2 * self.batch * model.groups * self.columns * model.head_size * BYTES


def image_spans(model: Model, columns: int) -> list[tuple[int, int]]:
    """Up to four images, as many as fit, between texts; half-open spans of columns."""
    spans: list[tuple[int, int]] = []
    start = min(16, columns // 8)
    while len(spans) < 4 and start + model.image_tokens + 8 <= columns:
        spans.append((start, start + model.image_tokens))
        start += model.image_tokens + 16
    return spans


def decode_shapes(model: Model, size: Size) -> list[AttentionShape]:
    if size == "smoke":
        return [
            AttentionShape(1, 1, 40),
            AttentionShape(1, 3, 29, window=model.window, compiled=True),
        ]
    if size == "quick":
        shapes = [
            AttentionShape(1, 1, 640, compiled=True),
            AttentionShape(16, 1, 640),
            AttentionShape(1, 1, 32768),
            AttentionShape(16, 1, 8192, compiled=True),
            AttentionShape(4, 40, 640),
        ]
        windowed = [AttentionShape(4, 1, 8192, model.window)]
    else:
        shapes = [
            AttentionShape(batch, 1, columns, compiled=batch in (1, 16) and columns != 2048)
            for columns in (640, 2048, 8192, 32768)
            for batch in (1, 4, 16, 64)
        ]
        shapes += [
            AttentionShape(batch, 40, columns, compiled=batch == 4)
            for columns in (640, 8192)
            for batch in (1, 4, 16)
        ]
        windowed = [
            AttentionShape(batch, rows, 8192, model.window) for batch in (1, 16) for rows in (1, 40)
        ]
    return shapes + (windowed if model.window else [])


def prefill_shapes(model: Model, size: Size) -> list[AttentionShape]:
    if size == "smoke":
        return [AttentionShape(1, 20, 20, compiled=True)]
    pairs = [(1, 640), (16, 640), (1, 4096)]
    windowed = [(1, 4096)]
    if size == "full":
        pairs += [(64, 640), (1, 2048), (4, 4096), (1, 16384), (1, 32768)]
        windowed += [(1, 16384), (4, 4096)]
    shapes = [AttentionShape(b, n, n, compiled=n <= 16384) for b, n in pairs]
    if model.window:
        shapes += [AttentionShape(b, n, n, model.window, compiled=True) for b, n in windowed]
    return shapes


def image_shapes(model: Model, size: Size) -> list[AttentionShape]:
    if size == "smoke":
        return [AttentionShape(1, 1, 40)]
    triples = [(1, 1, 640), (16, 1, 4096), (1, 256, 4096)]
    if size == "full":
        triples += [(16, 1, 640), (1, 1, 32768), (16, 40, 640), (1, 40, 8192), (16, 40, 8192)]
    return [AttentionShape(*triple) for triple in triples]


def row_counts(size: Size) -> list[int]:
    """Rows of logits."""
    return {"smoke": [2], "quick": [1, 64], "full": [1, 4, 16, 64, 512]}[size]


def image_counts(size: Size) -> list[int]:
    """Images whose embeddings are rescaled at once."""
    return {"smoke": [1], "quick": [1, 64], "full": [1, 8, 32, 128]}[size]
