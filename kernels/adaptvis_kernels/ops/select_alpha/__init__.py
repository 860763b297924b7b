"""Confidence of the last row's logits, and the coefficient that the policy takes from it."""

from .launch import select_alpha
from .reference import select_alpha_reference

__all__ = ["select_alpha", "select_alpha_reference"]
