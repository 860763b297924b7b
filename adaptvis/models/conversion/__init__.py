"""LLaVA checkpoints from one layout to another, tensor by tensor."""

from adaptvis.models.conversion.convert import TARGETS, convert

__all__ = ["TARGETS", "convert"]
