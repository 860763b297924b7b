"""Steering in vLLM: a plugin for the stock engine, and helpers for those who call it."""

from adaptvis.vllm.offline import Decision, decisions
from adaptvis.vllm.parameters import extra_args

__all__ = ["Decision", "decisions", "extra_args"]
