"""A tiny run, small enough for a test."""

from collections.abc import Callable
from pathlib import Path

import pytest

from adaptvis.training.llava import Recipe, load_recipe, override

SMALL = (
    "stages.stage-1.data.images=10",
    "stages.stage-2.data.images=10",
    "stages.stage-1.global_batch=4",
    "stages.stage-2.global_batch=4",
    "stages.stage-1.per_device_batch=2",
    "stages.stage-2.per_device_batch=2",
    "stages.stage-1.steps=2",
    "stages.stage-2.steps=5",
    "stages.stage-1.save_every=1",
    "stages.stage-2.save_every=2",
)


@pytest.fixture(scope="session")
def small() -> Callable[..., Recipe]:
    """A tiny recipe of a few steps, with further settings."""

    def make(name: str = "tiny-2ds-normalize", *settings: str) -> Recipe:
        return override(load_recipe(name), (*SMALL, *settings))

    return make


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The embedded model that the recipes of seed 1 begin with."""
    import adaptvis

    return Path(adaptvis.__file__).parent / "assets" / "models" / "tiny-2ds-seed1"
