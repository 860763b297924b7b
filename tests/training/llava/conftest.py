"""A tiny run, small enough for a test."""

from collections.abc import Callable
from pathlib import Path

import pytest
from training.llava.small import SMALL

from adaptvis.training.llava import Recipe, load_recipe, override


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
