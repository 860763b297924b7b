"""The embedded models, loaded once."""

from functools import cache
from pathlib import Path

import adaptvis
from adaptvis.hf.engine import HFEngine

MODELS = Path(adaptvis.__file__).parent / "assets" / "models"


@cache
def tiny_engine(name: str = "tiny-2ds-seed1") -> HFEngine:
    return HFEngine.load(MODELS / name)
