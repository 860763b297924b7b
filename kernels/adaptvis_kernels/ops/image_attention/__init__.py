"""Attention of chosen query rows on image tokens: weights, share, entropy and log-sum-exp."""

from .launch import image_attention
from .reference import ImageAttention, image_attention_reference

__all__ = ["ImageAttention", "image_attention", "image_attention_reference"]
