"""Several questions behind one image: layout, block attention and loss.

The sequence of one image is a prefix `<s> user : <image> x 49` and Q blocks of T tokens,
`{question} assistant : {answer}`. Every block continues the prefix as if it stood alone: it has
the same positions and sees the prefix and its own earlier tokens, not the other blocks. The loss
of a packed batch is therefore exactly the loss of its questions one by one, for one image's cost.

Attention is two plain matrix products (prefix part, block part) under one softmax: on CPUs that is
faster, backwards above all, than a masked fused kernel over the whole square.
"""

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from adaptvis.errors import DataError
from adaptvis.training.tiny.model import GRID
from adaptvis.training.tiny.stream import Batch, mentions, patch_labels
from adaptvis.training.tiny.tokenizer import ANSWER_CUE, EOS, PAD, PREFIX, encode_words

__all__ = ["BLOCK", "Losses", "PackedBatch", "PatchHead", "answer_logits", "pack", "packed_losses"]

BLOCK = 15
"""Tokens per block: the longest question (12), `assistant :` and one answer word."""
ROWS = 3
"""Scored rows per block: one or two answer words and the end of sequence."""
EOS_WEIGHT = 0.05
PATCH_WEIGHT = 0.5
GROUNDED_LAYERS = 2
"""Decoder layers after which a word that stands for an object is asked where that object is."""
PREFIX_LENGTH = len(PREFIX) + GRID * GRID


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Tensors of one packed batch of B images with Q questions each.

    Attributes:
        pixels: float32 [B, 3, 56, 56], normalised as the processor does.
        blocks: int64 [B, Q, T], right-padded.
        rows: int64 [B, Q, 3], positions inside the block whose next token is scored.
        targets: int64 [B, Q, 3], that next token.
        weights: float32 [B, Q, 3], 1 for answer words, 0.05 for the end, 0 for unused rows.
        patches: int64 [B, 49, 2], colour and shape class of each patch.
        mentions: int64 [M, 6], words that stand for an object: image, question, position inside
            the block, row and column of the patch with the object's centre, and whether it is the
            question's first (0) or second (1) object.
        blind: bool [B, Q, T], words that do not see the image in this batch.
    """

    pixels: Tensor
    blocks: Tensor
    rows: Tensor
    targets: Tensor
    weights: Tensor
    patches: Tensor
    mentions: Tensor
    blind: Tensor


class PatchHead(nn.Module):
    """Linear read-outs that exist during training only.

    Of each patch, from the tower: colour (7 classes) and shape (5 classes). Of each word that
    stands for an object, from the language model: row and column of its patch (7 classes each).
    """

    def __init__(self, width: int, colors: int = 7, shapes: int = 5) -> None:
        super().__init__()
        self.colors = colors
        self.linear = nn.Linear(width, colors + shapes)
        self.grounding = nn.Linear(width, 2 * GRID)
        self.cue = nn.Linear(width, 4 * GRID)

    def grounding_loss(self, hidden: Tensor, cells: Tensor) -> Tensor:
        """Mean cross-entropy over mentions; hidden [M, width], cells [M, 2] (row, column)."""
        logits = self.grounding(hidden).float()
        row = F.cross_entropy(logits[:, :GRID], cells[:, 0])
        return row + F.cross_entropy(logits[:, GRID:], cells[:, 1])

    def cue_loss(self, hidden: Tensor, cells: Tensor, order: Tensor) -> Tensor:
        """The same read off the last prompt token, for its first or second object (order [M])."""
        logits = self.cue(hidden).float().unflatten(1, (2, 2, GRID))
        logits = logits[torch.arange(len(order)), order]
        row = F.cross_entropy(logits[:, 0], cells[:, 0])
        return row + F.cross_entropy(logits[:, 1], cells[:, 1])

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over patches; features [B, 49, width], labels [B, 49, 2]."""
        logits = self.linear(features).float().flatten(0, 1)
        color = F.cross_entropy(logits[:, : self.colors], labels[..., 0].flatten())
        return color + F.cross_entropy(logits[:, self.colors :], labels[..., 1].flatten())


@dataclass(frozen=True, slots=True)
class Losses:
    """Scalars of one batch: answers (weighted mean over scored tokens), patches (mean), grounding
    (mean over mentions that see the image), cue grounding (mean over mentions), and the mean share
    of attention that question words which see the image give to it.
    """

    answers: Tensor
    patches: Tensor
    grounding: Tensor
    cue_grounding: Tensor
    image_attention: Tensor


def pack(
    batch: Batch, questions: int, blind: float = 0.0, rng: random.Random | None = None
) -> PackedBatch:
    """Lays out a batch; images with fewer than `questions` questions get empty blocks.

    With probability `blind` (drawn from `rng`) the words of a question do not see the image.

    Raises:
        DataError: a question and its answer do not fit into a block.
    """
    size = len(batch.scenes)
    blocks = torch.full((size, questions, BLOCK), PAD)
    rows = torch.zeros(size, questions, ROWS, dtype=torch.int64)
    targets = torch.full((size, questions, ROWS), EOS)
    weights = torch.zeros(size, questions, ROWS)
    named: list[tuple[int, ...]] = []
    unseeing = torch.zeros(size, questions, BLOCK, dtype=torch.bool)
    for b, asked in enumerate(batch.questions):
        for q, question in enumerate(asked[:questions]):
            prompt = (*encode_words(question.text), *ANSWER_CUE)
            answer = encode_words(question.answer)
            count = len(answer) + 1
            tokens = (*prompt, *answer)
            if len(tokens) > BLOCK or count > ROWS:
                raise DataError(f"The question {question.text!r} does not fit into a block.")
            blocks[b, q, : len(tokens)] = torch.tensor(tokens)
            rows[b, q, :count] = torch.arange(len(prompt) - 1, len(tokens))
            targets[b, q, :count] = torch.tensor((*answer, EOS))
            weights[b, q, : count - 1] = 1.0
            weights[b, q, count - 1] = EOS_WEIGHT
            found = sorted(mentions(batch.scenes[b], question))
            named.extend((b, q, *m, order) for order, m in enumerate(found))
            if rng is not None and rng.random() < blind:
                unseeing[b, q, : len(prompt) - 1] = True
    pixels = torch.from_numpy(batch.images).permute(0, 3, 1, 2).float()
    patches = torch.stack([torch.from_numpy(patch_labels(s)) for s in batch.scenes])
    marks = torch.tensor(named, dtype=torch.int64).reshape(-1, 6)
    normalised = (pixels / 255 - 0.5) / 0.25
    return PackedBatch(normalised, blocks, rows, targets, weights, patches, marks, unseeing)


def patch_features(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """Tower output without the class token [B, 49, width]."""
    tower = model.model.vision_tower
    hidden = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers:
        hidden = layer(hidden, attention_mask=None)
    return hidden[:, 1:]


def answer_logits(
    model: LlavaForConditionalGeneration, features: Tensor, packed: PackedBatch
) -> Tensor:
    """Logits [B, Q, 3, vocabulary] of the scored rows, given the tower's output."""
    return _forward(model, features, packed).logits


@dataclass(frozen=True, slots=True)
class _Forward:
    logits: Tensor  # [B, Q, 3, vocabulary]
    early: Tensor  # [B, P + Q T, width] after GROUNDED_LAYERS layers
    late: Tensor  # [B, P + Q T, width] before the last layer
    attention: Tensor  # [B, Q, T] share of attention on the image, mean of heads and layers


def _forward(
    model: LlavaForConditionalGeneration, features: Tensor, packed: PackedBatch
) -> _Forward:
    text = model.model.language_model
    size, questions, length = packed.blocks.shape
    prefix_ids = torch.tensor(PREFIX).expand(size, -1)
    prefix = torch.cat(
        [text.embed_tokens(prefix_ids), model.model.multi_modal_projector(features)], dim=1
    )
    blocks = text.embed_tokens(packed.blocks).flatten(1, 2)
    hidden = torch.cat([prefix.to(blocks.dtype), blocks], dim=1)
    own = torch.arange(PREFIX_LENGTH, PREFIX_LENGTH + length)
    positions = torch.cat([torch.arange(PREFIX_LENGTH), own.repeat(questions)])
    cos, sin = text.rotary_emb(hidden, positions[None])
    causal = torch.full((length, length), float("-inf")).triu(1)
    early, shares = hidden, []
    barred = torch.zeros(size, questions, length, PREFIX_LENGTH)
    barred[..., len(PREFIX) :].masked_fill_(packed.blind[..., None], float("-inf"))
    *layers, last = text.layers
    for index, layer in enumerate(layers, start=1):
        hidden, share = _layer(layer, hidden, (cos, sin), causal, barred)
        shares.append(share)
        if index == GROUNDED_LAYERS:
            early = hidden
    scored = _last_layer(last, hidden, (cos, sin), packed.rows)
    logits = model.lm_head(text.norm(scored)).unflatten(1, (questions, ROWS))
    return _Forward(logits, early, hidden, torch.stack(shares).mean(0))


def packed_losses(
    model: LlavaForConditionalGeneration, head: PatchHead, packed: PackedBatch
) -> Losses:
    """All training losses of a batch."""
    features = patch_features(model, packed.pixels)
    out = _forward(model, features, packed)
    each = F.cross_entropy(
        out.logits.float().flatten(0, 2), packed.targets.flatten(), reduction="none"
    )
    weights = packed.weights.flatten()
    answers = (weights > EOS_WEIGHT).sum().clamp(min=1)

    length = packed.blocks.shape[2]
    image, question, position, row, column, order = packed.mentions.unbind(1)
    cells = torch.stack([row, column], dim=1)
    start = PREFIX_LENGTH + question * length
    seen = ~packed.blind[image, question, position]
    words = out.early[image[seen], (start + position)[seen]]
    cue = packed.rows[..., 0]
    asking = (torch.arange(length) < cue[..., None]) & ~packed.blind
    return Losses(
        answers=(each * weights).sum() / answers,
        patches=head.loss(features, packed.patches),
        grounding=head.grounding_loss(words, cells[seen]),
        cue_grounding=head.cue_loss(out.late[image, start + cue[image, question]], cells, order),
        image_attention=(out.attention * asking).sum() / asking.sum().clamp(min=1),
    )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


def _heads(x: Tensor, dim: int) -> Tensor:
    return x.unflatten(-1, (-1, dim)).transpose(1, 2)


def _mlp(layer: LlamaDecoderLayer, hidden: Tensor) -> Tensor:
    x = layer.post_attention_layernorm(hidden)
    both = F.linear(x, torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]))
    gate, up = both.chunk(2, dim=-1)
    return hidden + layer.mlp.down_proj(F.silu(gate) * up)


def _layer(
    layer: LlamaDecoderLayer,
    hidden: Tensor,
    rope: tuple[Tensor, Tensor],
    causal: Tensor,
    barred: Tensor,
) -> tuple[Tensor, Tensor]:
    """One decoder layer over prefix and blocks; hidden [B, P + Q T, width].

    `barred` [B, Q, T, P] is added to the logits of the prefix. The second result is the share of
    attention on the image [B, Q, T], mean over heads.
    """
    questions = barred.shape[1]
    attention = layer.self_attn
    dim, p = attention.head_dim, PREFIX_LENGTH
    x = layer.input_layernorm(hidden)
    weight = torch.cat([m.weight for m in (attention.q_proj, attention.k_proj, attention.v_proj)])
    q, k, v = (_heads(part, dim) for part in F.linear(x, weight).chunk(3, dim=-1))
    q, k = _rotate(q, *rope) * dim**-0.5, _rotate(k, *rope)

    first = torch.full((p, p), float("-inf"), dtype=q.dtype).triu(1)
    scores = q[:, :, :p] @ k[:, :, :p].transpose(-1, -2) + first
    prefix_out = scores.softmax(-1) @ v[:, :, :p]

    qb, kb, vb = (t[:, :, p:].unflatten(2, (questions, -1)) for t in (q, k, v))
    to_prefix = (q[:, :, p:] @ k[:, :, :p].transpose(-1, -2)).unflatten(2, (questions, -1))
    to_prefix = to_prefix + barred[:, None].to(q.dtype)
    to_block = qb @ kb.transpose(-1, -2) + causal.to(q.dtype)
    weights = torch.cat([to_prefix, to_block], dim=-1).softmax(-1)
    block_out = (weights[..., :p].flatten(2, 3) @ v[:, :, :p]) + (weights[..., p:] @ vb).flatten(
        2, 3
    )

    mixed = torch.cat([prefix_out, block_out], dim=2).transpose(1, 2).flatten(2)
    share = weights[..., len(PREFIX) : p].float().sum(-1).mean(1)
    return _mlp(layer, hidden + attention.o_proj(mixed)), share


def _last_layer(
    layer: LlamaDecoderLayer, hidden: Tensor, rope: tuple[Tensor, Tensor], rows: Tensor
) -> Tensor:
    """The last decoder layer, for the scored rows only: [B, Q * 3, width]."""
    attention = layer.self_attn
    dim, p, questions = attention.head_dim, PREFIX_LENGTH, rows.shape[1]
    length = (hidden.shape[1] - p) // questions
    starts = p + length * torch.arange(questions)
    index = (rows + starts[None, :, None]).flatten(1)  # [B, Q * 3] into the whole sequence
    kept = hidden.gather(1, index[..., None].expand(-1, -1, hidden.shape[-1]))

    x = layer.input_layernorm(hidden)
    weight = torch.cat([attention.k_proj.weight, attention.v_proj.weight])
    k, v = (_heads(part, dim) for part in F.linear(x, weight).chunk(2, dim=-1))
    k = _rotate(k, *rope)
    cos, sin = (t[0][index][:, None] for t in rope)
    q = _rotate(_heads(attention.q_proj(layer.input_layernorm(kept)), dim), cos, sin) * dim**-0.5

    kb, vb = (t[:, :, p:].unflatten(2, (questions, -1)) for t in (k, v))
    to_prefix = (q @ k[:, :, :p].transpose(-1, -2)).unflatten(2, (questions, -1))
    visible = torch.arange(length) <= rows[..., None]  # [B, Q, 3, T]
    to_block = q.unflatten(2, (questions, -1)) @ kb.transpose(-1, -2)
    to_block = to_block.masked_fill(~visible[:, None], float("-inf"))
    weights = torch.cat([to_prefix, to_block], dim=-1).softmax(-1)
    out = weights[..., :p].flatten(2, 3) @ v[:, :, :p] + (weights[..., p:] @ vb).flatten(2, 3)
    return _mlp(layer, kept + attention.o_proj(out.transpose(1, 2).flatten(2)))
