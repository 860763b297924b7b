"""Names of tensors in the three layouts, each as the hub's classic name and back."""

from __future__ import annotations

import re

__all__ = ["classic_name", "from_original", "to_original", "tower_name"]

# Derived from the configuration; old checkpoints store them, the library computes them.
_DERIVED = re.compile(r"rotary_emb\.inv_freq$|embeddings\.position_ids$")
_TRANSFORMERS_5 = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
_TOWER = "vision_tower."
_INNER = "vision_tower.vision_model."
_LINEAR = {"0": "linear_1", "2": "linear_2"}


def classic_name(name: str) -> str | None:
    """A LLaVA's tensor as the hub names it, whichever version of transformers wrote it."""
    if _DERIVED.search(name):
        return None
    for new, old in _TRANSFORMERS_5:
        if name.startswith(new):
            name = old + name.removeprefix(new)
            break
    if name.startswith(_TOWER) and not name.startswith(_INNER):
        name = _INNER + name.removeprefix(_TOWER)
    return name


def tower_name(name: str) -> str | None:
    """A tensor of CLIP, its vision model alone, or a LLaVA; None where it is not the tower's."""
    if _DERIVED.search(name):
        return None
    for prefix in ("model.vision_tower.", "vision_tower."):
        if name.startswith(prefix):
            return classic_name(name)
    if name.startswith("vision_model."):
        return _TOWER + name
    own = ("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm.", "head.")
    return _INNER + name if name.startswith(own) else None


def from_original(name: str, ndim: int) -> str | None:
    """A tensor of LLaVA's own code, or of Beyond Semantics', as the hub names it.

    The projector is ``mm_projector.0`` and ``.2``; inside Beyond Semantics' NormalizedProjector
    and PoolingProjector it is ``mm_projector.projector.N`` and ``mm_projector.proj.N``, and the
    norm is ``mm_projector.norm``. A one-dimensional weight with a number is such a norm, too.
    """
    if _DERIVED.search(name):
        return None
    name = name.removeprefix("model.")
    if name.startswith("mm_projector."):
        rest = re.sub(r"^(proj\.)?(projector\.)?", "", name.removeprefix("mm_projector."))
        number, _, kind = rest.partition(".")
        if rest == "norm.weight" or (kind == "weight" and number.isdigit() and ndim == 1):
            return "multi_modal_projector.norm.weight"
        return f"multi_modal_projector.{_LINEAR.get(number, number)}.{kind}"
    if name.startswith("vision_tower.vision_tower."):
        return tower_name(name.removeprefix("vision_tower.vision_tower."))
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    return f"language_model.model.{name}"


def to_original(name: str, *, normalize: bool, pooled: bool) -> str:
    """The name of a tensor of the hub's layout in LLaVA's own code."""
    if name == "multi_modal_projector.norm.weight":
        return "model.mm_projector.norm.weight"
    match = re.fullmatch(r"multi_modal_projector\.linear_([12])\.(weight|bias)", name)
    if match:
        inside = "projector." if normalize else "proj." if pooled else ""
        return f"model.mm_projector.{inside}{2 * int(match[1]) - 2}.{match[2]}"
    if name.startswith(_TOWER):
        return f"model.vision_tower.{name}"
    return name.removeprefix("language_model.")
