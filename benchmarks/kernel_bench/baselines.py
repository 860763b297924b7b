"""What the kernels are compared with: PyTorch's attention backends, FlexAttention, plain torch."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from kernel_bench.problem import Refused

# The eager expression keeps several float32 matrices of logits.
_EAGER_BYTES = 24 * 2**30
_CHECKED_ROWS = 64


@cache
def steering() -> ModuleType:
    """adaptvis.steering.attention, loaded by itself: it needs torch alone, its package more."""
    path = Path(__file__).parents[2] / "adaptvis" / "steering" / "attention.py"
    spec = importlib.util.spec_from_file_location("steering_attention", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def causal_mask(rows: int, columns: int, window: int | None, device: torch.device) -> Tensor:
    """bool [R, N]: which columns each row sees; the rows are the last of the columns."""
    column = torch.arange(columns, device=device)
    position = torch.arange(columns - rows, columns, device=device)[:, None]
    seen = column <= position
    return seen if window is None else seen & (position - column < window)


def expected_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    image_columns: Tensor,
    row_alpha: Tensor,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    """The definition in float64, one request after another, for up to 64 rows spread over R.

    Returns:
        The rows' indices [r], and their output [B, H, r, D].
    """
    rows, columns = query.shape[2], key.shape[2]
    chosen = torch.linspace(0, rows - 1, min(rows, _CHECKED_ROWS), device=query.device).long()
    mask = causal_mask(rows, columns, window, query.device)[chosen]
    outputs = [
        steering().reference_attention(
            query[one][:, :, chosen],
            key[one],
            value[one],
            image_columns=image_columns[one],
            row_alpha=row_alpha[one][:, chosen],
            mask=mask,
            scaling=query.shape[3] ** -0.5,
            dtype=torch.float64,
        )
        for one in (slice(request, request + 1) for request in range(query.shape[0]))
    ]
    return chosen, torch.cat(outputs)


def eager_steered(
    query: Tensor, key: Tensor, value: Tensor, alpha: Tensor, image: Tensor, mask: Tensor
) -> Tensor:
    """The project's own torch implementation, which models run on without a kernel."""
    output, _ = steering().steered_attention(
        query,
        key,
        value,
        image_columns=image,
        row_alpha=alpha,
        mask=mask,
        scaling=query.shape[3] ** -0.5,
    )
    return output


def require_eager_fits(batch: int, heads: int, rows: int, columns: int) -> None:
    """Refuse where the eager expression would fill the device."""
    needed = 4 * 4 * batch * heads * rows * columns
    if needed > _EAGER_BYTES:
        raise Refused(f"logits in float32 would take {needed / 2**30:.0f} GiB")


def sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    backend: SDPBackend,
    window: int | None,
) -> Callable[[], Tensor]:
    """Unsteered attention by one backend of PyTorch's, which raises where it does not accept it.

    A single row needs no mask, and with a window only the last columns. Several rows behind
    others stand at the lower right, for which flash has a flag; otherwise a mask is given.
    """
    rows, columns = query.shape[2], key.shape[2]
    options: dict[str, Any] = {"enable_gqa": query.shape[1] != key.shape[1]}
    if rows == 1:
        if window is not None:
            key, value = key[:, :, -window:], value[:, :, -window:]
    elif window is not None and window < columns:
        options["attn_mask"] = causal_mask(rows, columns, window, query.device)
    elif rows == columns:
        options["is_causal"] = True
    elif backend == SDPBackend.FLASH_ATTENTION:
        options["attn_mask"] = causal_lower_right(rows, columns)
    else:
        options["attn_mask"] = causal_mask(rows, columns, None, query.device)

    def call() -> Tensor:
        with sdpa_kernel(backend):
            return functional.scaled_dot_product_attention(query, key, value, **options)

    return call


def flex_block_mask(
    rows: int, columns: int, window: int | None, device: torch.device
) -> BlockMask | None:
    """Causal, and windowed, for FlexAttention; a single row sees everything."""
    if rows == 1:
        return None
    before, reach = columns - rows, columns if window is None else window

    def causal(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return q + before >= k

    def windowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q + before >= k) & (q + before - k < reach)

    return create_block_mask(
        causal if window is None else windowed, None, None, rows, columns, device=device
    )


def _flex_steered(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    alpha: Tensor,
    image: Tensor,
    block_mask: BlockMask | None,
) -> Any:
    # Defined within what is compiled, so that other tensors do not compile it again.
    def steer(score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.where(image[b, k], score * alpha[b, q], score)

    grouped = query.shape[1] != key.shape[1]
    return flex_attention(
        query, key, value, score_mod=steer, block_mask=block_mask, enable_gqa=grouped
    )


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """``function`` compiled for exactly one shape; on a CPU only traced, to keep smoke runs short.

    Earlier compilations are forgotten: past a limit of them torch.compile gives up.
    """
    torch.compiler.reset()
    backend = "inductor" if device.type == "cuda" else "eager"
    return torch.compile(function, dynamic=False, backend=backend)


def flex_steered(device: torch.device) -> Callable[..., Tensor]:
    """FlexAttention with a score_mod that multiplies the logits of image columns."""
    return compiled(_flex_steered, device)


def torch_select_alpha(
    logits: Tensor, threshold: float, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Confidence and coefficient in plain torch."""
    confidence = torch.softmax(logits, dim=-1, dtype=torch.float32).amax(dim=-1)
    alphas = torch.where(confidence < threshold, low, high)
    return confidence, alphas


def eager_image_attention(
    query: Tensor, key: Tensor, positions: Tensor, alpha: Tensor, image: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights, share, entropy and log-sum-exp by way of the whole softmax matrix."""
    batch, num_heads, rows, size = query.shape
    folded = query.reshape(batch, key.shape[1], -1, size)
    logits = (folded @ key.transpose(-1, -2)).float().view(batch, num_heads, rows, -1)
    logits = logits * size**-0.5
    logits = torch.where(image[:, None, None], logits * alpha[:, None, :, None], logits)
    logits = logits.masked_fill(~mask, -math.inf)
    columns = positions.long()[:, None, None].expand(-1, num_heads, rows, -1)
    weights = torch.softmax(logits, dim=-1).gather(3, columns)
    share = weights.sum(dim=-1)
    among = weights / share[..., None]
    entropy = torch.special.entr(among).sum(dim=-1) / math.log(positions.shape[1])
    return weights, share, entropy, torch.logsumexp(logits, dim=-1)
