"""The Triton kernels in vLLM's CPU engine, through the interpreter: needs TRITON_INTERPRET=1."""

import os


def pytest_ignore_collect(collection_path) -> bool | None:
    return None if os.environ.get("TRITON_INTERPRET") == "1" else True
