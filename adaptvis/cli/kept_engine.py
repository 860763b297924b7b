"""The engine loaded last, which the report asks again for its attention maps."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adaptvis.engine import Engine
    from adaptvis.evaluation import ModelPlan

__all__ = ["KeptEngine"]


class KeptEngine:
    """Loads models, and holds the last one until another is wanted: never two at a time."""

    def __init__(self, load: "Callable[[ModelPlan], Engine]") -> None:
        self._load = load
        self._engine: Engine | None = None
        self.name = ""
        """Of the model that is held; empty where none is."""

    def __call__(self, model: "ModelPlan") -> "Engine":
        """The model's engine.

        Raises:
            AdaptVisError: it cannot be loaded.
        """
        if self._engine is not None and self.name == model.name:
            return self._engine
        self._engine, self.name = None, ""
        self._engine = self._load(model)
        self.name = model.name
        return self._engine
