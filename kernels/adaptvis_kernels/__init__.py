"""Triton kernels for steering the attention of vision-language models.

Plain functions on tensors of a CUDA or ROCm device; each lives in a folder of ``ops`` beside its
reference, which is its definition, and its documentation.
"""

from .ops.image_attention import ImageAttention, image_attention, image_attention_reference
from .ops.rescale_norms import (
    normalize_projection,
    normalize_projection_reference,
    rescale_norms,
    rescale_norms_reference,
)
from .ops.select_alpha import select_alpha, select_alpha_reference
from .ops.steered_paged_decode import (
    steered_decode,
    steered_paged_decode,
    steered_paged_decode_reference,
)
from .ops.steered_prefill import (
    steered_prefill,
    steered_prefill_reference,
    steered_prefill_varlen,
    steered_prefill_varlen_reference,
)

__all__ = [
    "ImageAttention",
    "image_attention",
    "image_attention_reference",
    "normalize_projection",
    "normalize_projection_reference",
    "rescale_norms",
    "rescale_norms_reference",
    "select_alpha",
    "select_alpha_reference",
    "steered_decode",
    "steered_paged_decode",
    "steered_paged_decode_reference",
    "steered_prefill",
    "steered_prefill_reference",
    "steered_prefill_varlen",
    "steered_prefill_varlen_reference",
]
