"""Settings shared by all tests."""

import os

from hypothesis import settings

# A busy machine must not fail a property.
settings.register_profile("adaptvis", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("adaptvis")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
