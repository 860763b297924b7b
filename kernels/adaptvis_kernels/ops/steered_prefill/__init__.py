"""Steered attention of many rows: the prefill, or a tail of it over an earlier cache."""

from .launch import steered_prefill, steered_prefill_varlen
from .reference import steered_prefill_reference, steered_prefill_varlen_reference

__all__ = [
    "steered_prefill",
    "steered_prefill_reference",
    "steered_prefill_varlen",
    "steered_prefill_varlen_reference",
]
