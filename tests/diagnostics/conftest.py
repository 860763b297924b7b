"""The embedded models with a few questions of 2DS, and small models of every family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hf.tiny_families import MARKER, PLACEHOLDER, build
from PIL import Image

from adaptvis.cli.models import SHORTCUT, resolve_model
from adaptvis.engine import Query
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import Sample, Task, get_task


@pytest.fixture(scope="session")
def shortcut() -> HFEngine:
    """The embedded model that learned a text shortcut."""
    return HFEngine.load(resolve_model(SHORTCUT).source)


@pytest.fixture(scope="session")
def two_ds() -> Task:
    return get_task("2ds")


@pytest.fixture(scope="session")
def samples(two_ds: Task) -> list[Sample]:
    return two_ds.load(24)


@pytest.fixture(params=["with success", "with an error"])
def fails(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "with an error")


def family_engine(family: str) -> HFEngine:
    """A tiny model with random weights of a family."""
    return HFEngine(*build(family), source=family)


def raw_query(family: str, text: str, images: list[Image.Image]) -> Query:
    """A query in the family's own markup; ``<image>`` marks an image."""
    return Query(text.replace(MARKER, PLACEHOLDER[family]), tuple(images), raw=True)


def hooks_of(engine: HFEngine) -> dict[str, Any]:
    """Everything on the model that an instrument could leave behind."""
    left: dict[str, Any] = {}
    for name, module in engine.model.named_modules():
        own = {k for k in ("forward", "generate", "get_image_features") if k in module.__dict__}
        counts = (len(module._forward_hooks), len(module._forward_pre_hooks))
        if own or any(counts):
            left[name] = (sorted(own), counts)
    return left


@contextmanager
def unchanged(engine: HFEngine) -> Iterator[None]:
    """The model has the same hooks after the block as before it."""
    before = hooks_of(engine)
    yield
    assert hooks_of(engine) == before


class Stop(Exception):
    """Raised in the middle of an instrument."""


def stop(*_: object) -> None:
    raise Stop
