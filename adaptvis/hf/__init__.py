"""Steering for Hugging Face transformers models."""

from adaptvis.hf.library import missing_name

try:
    from adaptvis.hf.decisions import Decision
    from adaptvis.hf.families import Family, family_for, known_families, register_family
    from adaptvis.hf.patch import SteeringHandle, patch, steer, unpatch
except ImportError as problem:
    if refusal := missing_name(problem):
        raise refusal from problem
    raise

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
