"""Steering for Hugging Face transformers models."""

from adaptvis.hf.decisions import Decision
from adaptvis.hf.families import Family, family_for, known_families, register_family
from adaptvis.hf.patch import SteeringHandle, patch, steer, unpatch

__all__ = [
    "Decision",
    "Family",
    "SteeringHandle",
    "family_for",
    "known_families",
    "patch",
    "register_family",
    "steer",
    "unpatch",
]
