"""``python -m gpu.probe``: the machine as JSON; exit status 2 and a sentence without a GPU.

In a process of its own, so that nothing holds memory of the device while the stages run.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

import torch
from adaptvis_kernels.device_check import NoDevice, choose_device, describe_machine


def main() -> int:
    """Print it; "kernels" is why the kernels cannot run here, or empty."""
    smoke = os.environ.get("TRITON_INTERPRET") == "1"
    reason = ""
    try:
        device = choose_device(smoke=smoke)
    except NoDevice as problem:
        if smoke or not torch.cuda.is_available():
            print(problem, file=sys.stderr)
            return 2
        reason = str(problem)
        device = torch.device("cuda", torch.cuda.current_device())
    print(json.dumps(asdict(describe_machine(device)) | {"kernels": reason}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
