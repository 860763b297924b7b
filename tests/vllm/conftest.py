"""Tests of the vLLM plugin: they run where vLLM is installed, on its real CPU engine."""

from __future__ import annotations

import importlib.util
import os

# This folder itself is found as a namespace package called vllm, without an origin.
_FOUND = importlib.util.find_spec("vllm")
HAVE_VLLM = _FOUND is not None and _FOUND.origin is not None
if HAVE_VLLM:
    # Before vLLM is imported: it reads its environment once.
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # Offline engines run in this process, where tests can look inside.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

# Plain tests of plans and parameters need no engine.
_WITHOUT_VLLM = (
    "test_field_names.py",
    "test_parameters.py",
    "test_plan.py",
    "test_cache_layout.py",
    "test_decision_store.py",
    "test_seams.py",
)


def pytest_ignore_collect(collection_path) -> bool | None:
    name = collection_path.name
    if not HAVE_VLLM and name.startswith("test_") and name not in _WITHOUT_VLLM:
        return True
    return None
