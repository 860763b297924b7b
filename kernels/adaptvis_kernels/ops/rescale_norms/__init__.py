"""Norms of image-token embeddings: rescaling at inference, and the trained Normalize tail."""

from .launch import normalize_projection, rescale_norms
from .reference import normalize_projection_reference, rescale_norms_reference

__all__ = [
    "normalize_projection",
    "normalize_projection_reference",
    "rescale_norms",
    "rescale_norms_reference",
]
