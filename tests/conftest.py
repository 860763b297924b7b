"""Settings shared by all tests."""

import os

# The models are tiny: one thread is faster than several, on a busy machine by far.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from hypothesis import settings

# A busy machine must not fail a property.
settings.register_profile("adaptvis", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("adaptvis")
