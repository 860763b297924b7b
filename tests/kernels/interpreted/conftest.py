"""These tests run kernels on the CPU in Triton's interpreter, in a process of their own.

``TRITON_INTERPRET=1`` is read when triton is imported, so it must be set before pytest starts:
``TRITON_INTERPRET=1 python -m pytest tests/kernels/interpreted``. Without it nothing is collected
here; the test command of the README runs both processes.
"""

import os

if os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_*.py"]
