"""``python -m adaptvis_kernels.device_check [--smoke]``: exit status 1 where a kernel is wrong or
could not be checked."""

from __future__ import annotations

import argparse
import sys

from .machine import NoDevice
from .report import device_report


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser("adaptvis_kernels.device_check", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="in Triton's interpreter, no times")
    smoke = parser.parse_args().smoke
    try:
        text, problem = device_report(smoke=smoke, say=lambda line: print(line, file=sys.stderr))
    except NoDevice as reason:
        print(reason, file=sys.stderr)
        return 2
    print(text, end="")
    if problem:
        print(problem, file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
