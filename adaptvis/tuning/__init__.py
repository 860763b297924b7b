"""Tuning: choose steering settings on validation questions."""

from adaptvis.tuning.grid import DEFAULT_ALPHAS, Grid
from adaptvis.tuning.objective import objective_for
from adaptvis.tuning.select import Selection, select
from adaptvis.tuning.store import store_presets
from adaptvis.tuning.sweep import Sweep, run_sweep

__all__ = [
    "DEFAULT_ALPHAS",
    "Grid",
    "Selection",
    "Sweep",
    "objective_for",
    "run_sweep",
    "select",
    "store_presets",
]
