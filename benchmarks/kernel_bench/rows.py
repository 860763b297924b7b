"""Comparisons of the kernels that go over rows: norms and confidence; and of image attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch._functorch.config
from adaptvis_kernels.device_check.correctness import relative_error
from adaptvis_kernels.device_check.timing import Call, sets_of
from adaptvis_kernels.ops import image_attention as image
from adaptvis_kernels.ops import rescale_norms as norms
from adaptvis_kernels.ops import select_alpha as confidence
from adaptvis_kernels.ops.image_attention.cost import cost as image_cost
from adaptvis_kernels.ops.rescale_norms.cost import cost as norms_cost
from adaptvis_kernels.ops.select_alpha.cost import cost as select_cost
from torch import Tensor

from kernel_bench import baselines
from kernel_bench.inputs import make_inputs
from kernel_bench.problem import Problem, Variant
from kernel_bench.shapes import BYTES, AttentionShape, Model

# Outputs in bfloat16 are rounded to 8 bits; statistics in float32 are not.
ROUNDED_LIMIT = 1e-2
EXACT_LIMIT = 1e-3
MASK_AND_HEADS = "image_attention, explicit mask and heads"
_TARGET, _CLIP = 0.83, 0.9
_NORMALIZE = {"max_norm": 1.22, "target_mean": 0.83}


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.bfloat16)


def select_problem(
    model: Model, rows: int, device: torch.device, *, only_ours: bool = False
) -> Problem:
    """Confidence and coefficient, against softmax, maximum and where."""
    generator = torch.Generator(device=device).manual_seed(0)
    count = sets_of(BYTES * rows * model.vocabulary, device)
    sets = [3 * _random(generator, rows, model.vocabulary) for _ in range(count)]
    expected = torch.softmax(sets[0].double(), dim=-1).amax(dim=-1)
    # Between two confidences, so that rounding decides nothing.
    ordered = expected.sort().values
    threshold = float((ordered[rows // 2] + ordered[max(rows // 2 - 1, 0)]) / 2)
    threshold = threshold if rows > 1 else 2 * threshold
    low, high = 0.5, 1.5
    policy = {"threshold": threshold, "alpha_low": low, "alpha_high": high}

    def error(output: tuple[Tensor, Tensor]) -> float:
        wanted = torch.where(expected < threshold, low, high)
        return max(relative_error(output[0], expected), relative_error(output[1], wanted))

    def ours() -> list[Call]:
        return [partial(confidence.select_alpha, logits, **policy) for logits in sets]

    def eager() -> list[Call]:
        return [
            partial(baselines.torch_select_alpha, logits, threshold, low, high) for logits in sets
        ]

    variants = [Variant("select_alpha", ours, error, EXACT_LIMIT, ours=True)]
    if not only_ours:
        variants.append(Variant("torch softmax, amax, where", eager, error, EXACT_LIMIT))
    return Problem(
        "select_alpha",
        model.name,
        f"{rows} row{'s' * (rows > 1)} of {model.vocabulary}",
        select_cost(rows, model.vocabulary, element_size=BYTES),
        variants,
        {"rows": rows, "vocabulary": model.vocabulary},
    )


def norms_problem(
    model: Model,
    images: int,
    device: torch.device,
    *,
    normalize: bool,
    backward: bool,
    only_ours: bool = False,
) -> Problem:
    """rescale_norms or normalize_projection in one direction, against torch and torch.compile."""
    rows = images * model.image_tokens
    generator = torch.Generator(device=device).manual_seed(0)
    count = sets_of((2 + backward) * BYTES * rows * model.hidden, device)
    sets = [_random(generator, rows, model.hidden) for _ in range(count)]
    gradients = [_random(generator, rows, model.hidden) for _ in range(count if backward else 0)]
    # Norms on both sides of max_norm.
    weight = torch.rand(model.hidden, generator=generator, device=device)
    weight = weight * (3 / model.hidden) ** 0.5 * _NORMALIZE["max_norm"]
    functions: dict[str, Callable[..., Tensor]] = {
        "ours": norms.normalize_projection if normalize else norms.rescale_norms,
        "reference": (
            norms.normalize_projection_reference if normalize else norms.rescale_norms_reference
        ),
    }
    options = _NORMALIZE if normalize else {"target": _TARGET, "clip": _CLIP}

    def prepared(function: Callable[..., Tensor]) -> list[Call]:
        function = partial(function, **options)
        if not backward:
            return [partial(function, *((x, weight) if normalize else (x,))) for x in sets]
        calls: list[Call] = []
        for x, gradient in zip(sets, gradients, strict=True):
            leaves = [x.detach().requires_grad_()]
            if normalize:
                leaves.append(weight.detach().requires_grad_())
            output = function(*leaves)
            calls.append(partial(torch.autograd.grad, output, leaves, gradient, retain_graph=True))
        return calls

    def through_compiler() -> list[Call]:
        # Buffers that only one backward pass may use would forbid repeating it.
        torch._functorch.config.donated_buffer = False
        return prepared(baselines.compiled(functions["reference"], device))

    expected: list[Tensor] = []

    def error(output: Any) -> float:
        if not expected:
            expected.extend(
                _expected_norms(functions["reference"], options, sets, gradients, weight, normalize)
            )
        outputs = output if isinstance(output, tuple) else (output,)
        return max(relative_error(o, e) for o, e in zip(outputs, expected, strict=True))

    name = "normalize_projection" if normalize else "rescale_norms"
    limit = ROUNDED_LIMIT
    variants = [Variant(name, partial(prepared, functions["ours"]), error, limit, ours=True)]
    if not only_ours:
        variants += [
            Variant("torch", partial(prepared, functions["reference"]), error, limit),
            Variant("torch.compile", through_compiler, error, limit),
        ]
    return Problem(
        name,
        model.name,
        f"{rows} vectors of {model.hidden}, {'backward' if backward else 'forward'}",
        norms_cost(rows, model.hidden, normalize=normalize, backward=backward, element_size=BYTES),
        variants,
        {"rows": rows, "hidden": model.hidden, "backward": int(backward)},
    )


def _expected_norms(
    function: Callable[..., Tensor],
    options: dict[str, float],
    sets: Sequence[Tensor],
    gradients: Sequence[Tensor],
    weight: Tensor,
    normalize: bool,
) -> list[Tensor]:
    """Output of the first set, or its gradients, in float64; weights are float32 and exact."""
    leaves = [sets[0].double().requires_grad_()]
    if normalize:
        leaves.append(weight.double().requires_grad_())
    output = function(*leaves, **options)
    if not gradients:
        return [output.detach()]
    return list(torch.autograd.grad(output, leaves, gradients[0].double()))


def image_problem(
    model: Model, shape: AttentionShape, device: torch.device, *, only_ours: bool = False
) -> Problem:
    """Attention on image tokens, against the whole softmax matrix."""
    sets = make_inputs(model, shape, device)
    first = sets[0]
    tokens = first.columns[0].nonzero()[:, 0].to(torch.int32)
    positions = tokens.expand(shape.batch, -1).contiguous()
    expected: list[image.ImageAttention] = []

    def error(output: Any) -> float:
        if not expected:
            expected.append(
                image.image_attention_reference(
                    first.query.double(),
                    first.key.double(),
                    image_positions=positions,
                    row_alpha=first.alpha,
                )
            )
        return max(relative_error(o, e) for o, e in zip(output, expected[0], strict=True))

    def ours(**rules: Tensor) -> list[Call]:
        return [
            partial(
                image.image_attention,
                s.query,
                s.key,
                image_positions=positions,
                row_alpha=s.alpha,
                **rules,
            )
            for s in sets
        ]

    def masked() -> list[Call]:
        seen = baselines.causal_mask(shape.rows, shape.columns, None, device)
        seen = seen.reshape(1, shape.rows, -1).expand(shape.batch, -1, -1)
        return ours(visible=seen, heads=torch.ones(model.heads, dtype=torch.bool, device=device))

    def eager() -> list[Call]:
        baselines.require_eager_fits(shape.batch, model.heads, shape.rows, shape.columns)
        mask = baselines.causal_mask(shape.rows, shape.columns, None, device)
        return [
            partial(
                baselines.eager_image_attention, s.query, s.key, positions, s.alpha, s.columns, mask
            )
            for s in sets
        ]

    variants = [
        Variant("image_attention", ours, error, EXACT_LIMIT, ours=True),
        Variant(MASK_AND_HEADS, masked, error, EXACT_LIMIT, ours=True),
    ]
    if not only_ours:
        # Its logits are rounded to bfloat16 on the way.
        variants.append(Variant("eager torch, whole softmax", eager, error, ROUNDED_LIMIT))
    moved = image_cost(
        batch=shape.batch,
        query_heads=model.heads,
        key_heads=model.groups,
        rows=shape.rows,
        columns=shape.columns,
        image_tokens=len(tokens),
        head_size=model.head_size,
        element_size=BYTES,
    )
    return Problem(
        "image_attention",
        model.name,
        shape.text,
        moved,
        variants,
        {"batch": shape.batch, "rows": shape.rows, "columns": shape.columns},
        report_memory=True,
    )
