"""Steered attention of a few query rows per request over a paged or dense cache."""

from .dense import steered_decode
from .launch import steered_paged_decode
from .reference import steered_paged_decode_reference

__all__ = ["steered_decode", "steered_paged_decode", "steered_paged_decode_reference"]
