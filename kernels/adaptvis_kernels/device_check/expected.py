"""What a call must give, by the definitions beside the kernels, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..ops.image_attention.reference import image_attention_reference
from ..ops.rescale_norms.reference import normalize_projection_reference, rescale_norms_reference
from ..ops.select_alpha.reference import select_alpha_reference
from ..ops.steered_prefill.reference import (
    steered_prefill_reference,
    steered_prefill_varlen_reference,
)

__all__ = ["expected_outputs"]

Arguments = dict[str, Any]
# How a call is made, not what it computes.
_LAUNCH_ONLY = ("return_log_sum_exp", "num_splits", "max_rows", "max_length", "row_starts")


def expected_outputs(function: str, arguments: Arguments) -> dict[str, Tensor]:
    """The outputs of the launcher ``function`` by name, float64; those that are undefined are NaN.

    An alpha of ``select_alpha`` is undefined where the confidence lies at the threshold.
    """
    wide = {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in arguments.items()
    }
    return _EXPECTED[function](wide)


def _one_by_one(
    reference: Callable[..., tuple[Tensor, ...]], names: tuple[str, ...], arguments: Arguments
) -> dict[str, Tensor]:
    """One request after another: the references keep the whole matrix of logits."""
    batch = len(arguments["query"])
    shared = ("heads",)
    parts = []
    for request in range(batch):
        own = {
            name: value[request : request + 1]
            if isinstance(value, Tensor) and name not in shared
            else value
            for name, value in arguments.items()
            if name not in _LAUNCH_ONLY
        }
        parts.append(reference(**own))
    outputs = (torch.cat(list(part)) for part in zip(*parts, strict=True))
    return dict(zip(names, outputs, strict=True))


def _dense(arguments: Arguments) -> dict[str, Tensor]:
    return _one_by_one(steered_prefill_reference, ("output", "log_sum_exp"), arguments)


def _paged(arguments: Arguments) -> dict[str, Tensor]:
    """Each request's blocks gathered, then as a dense one."""
    query, row_alpha = arguments["query"], arguments["row_alpha"]
    batch = len(arguments["sequence_lengths"])
    starts = arguments.get("row_starts")
    if starts is None:
        starts = torch.arange(batch + 1) * (len(query) // batch)
    output = torch.full_like(query, torch.nan)
    log_sum_exp = query.new_full(query.shape[:2], torch.nan)
    shared = {name: arguments.get(name) for name in ("heads", "window", "scaling", "softcap")}
    for request in range(batch):
        rows = slice(int(starts[request]), int(starts[request + 1]))
        length = int(arguments["sequence_lengths"][request])
        blocks = arguments["block_table"][request].long()
        key, value = (
            arguments[name][blocks].flatten(0, 1)[:length].transpose(0, 1)[None]
            for name in ("key_cache", "value_cache")
        )
        own: Arguments = {}
        for name in ("image_columns", "image_spans", "first_columns"):
            if arguments.get(name) is not None:
                own[name] = arguments[name][request : request + 1]
        if arguments.get("image_columns") is not None:
            own["image_columns"] = own["image_columns"][:, :length]
        if arguments.get("visible") is not None:
            own["visible"] = arguments["visible"][None, rows, :length]
        found, sums = steered_prefill_reference(
            query[rows].transpose(0, 1)[None],
            key,
            value,
            row_alpha=row_alpha[None, rows],
            **own,
            **shared,
        )
        output[rows], log_sum_exp[rows] = found[0].transpose(0, 1), sums[0].transpose(0, 1)
    return {"output": output, "log_sum_exp": log_sum_exp}


def _varlen(arguments: Arguments) -> dict[str, Tensor]:
    own = {name: value for name, value in arguments.items() if name not in _LAUNCH_ONLY}
    found, sums = steered_prefill_varlen_reference(**own)
    behind = len(arguments["query"]) - len(found)
    pad = torch.nn.functional.pad
    return {
        "output": pad(found, (0, 0, 0, 0, 0, behind), value=torch.nan),
        "log_sum_exp": pad(sums, (0, behind), value=torch.nan),
    }


def _image(arguments: Arguments) -> dict[str, Tensor]:
    names = ("weights", "share", "entropy", "log_sum_exp")
    return _one_by_one(image_attention_reference, names, arguments)


def _select(arguments: Arguments) -> dict[str, Tensor]:
    confidence, alpha = select_alpha_reference(**arguments)
    near = (confidence - arguments["threshold"]).abs() < 1e-4
    return {"confidence": confidence, "alpha": alpha.double().masked_fill(near, torch.nan)}


def _gradients(
    reference: Callable[..., Tensor], inputs: dict[str, Tensor], gradient: Tensor, **options: Any
) -> dict[str, Tensor]:
    """Of the inputs, by name: "embeddings" gives "embeddings_gradient"."""
    leaves = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    with torch.enable_grad():
        output = reference(*leaves.values(), **options)
    found = torch.autograd.grad(output, tuple(leaves.values()), gradient)
    return {f"{name}_gradient": value for name, value in zip(leaves, found, strict=True)}


def _rescale_backward(arguments: Arguments) -> dict[str, Tensor]:
    limit, always = arguments["limit"], arguments["always"]
    inputs = {"embeddings": arguments["embeddings"]}
    options = {"target": limit if always else None, "clip": None if always else limit}
    return _gradients(rescale_norms_reference, inputs, arguments["output_gradient"], **options)


def _normalize_backward(arguments: Arguments) -> dict[str, Tensor]:
    inputs = {name: arguments[name] for name in ("features", "weight")}
    options = {name: arguments[name] for name in ("max_norm", "target_mean", "eps")}
    found = _gradients(
        normalize_projection_reference, inputs, arguments["output_gradient"], **options
    )
    if not arguments.get("need_weight", True):
        found.pop("weight_gradient")
    return found


_EXPECTED: dict[str, Callable[[Arguments], dict[str, Tensor]]] = {
    "steered_paged_decode": _paged,
    "steered_decode": _dense,
    "steered_prefill": _dense,
    "steered_prefill_varlen": _varlen,
    "image_attention": _image,
    "select_alpha": _select,
    "rescale_norms": lambda arguments: {"output": rescale_norms_reference(**arguments)},
    "normalize_projection": lambda arguments: {
        "output": normalize_projection_reference(**arguments)
    },
    "rescale_backward": _rescale_backward,
    "normalize_backward": _normalize_backward,
}
