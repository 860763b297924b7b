"""vLLM's and our own Triton kernels in the CPU engine: needs TRITON_INTERPRET=1."""

import os
import runpy
from pathlib import Path

if os.environ.get("TRITON_INTERPRET") == "1":
    # Before vLLM is imported: it looks for Triton once.
    runpy.run_path(str(Path(__file__).parent / "triton_on_cpu" / "sitecustomize.py"))


def pytest_ignore_collect(collection_path) -> bool | None:
    return None if os.environ.get("TRITON_INTERPRET") == "1" else True
