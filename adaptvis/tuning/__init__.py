"""Tuning: choose steering settings on validation questions."""

from adaptvis.tuning.search import DEFAULT_ALPHAS, Grid, Sweep, run_sweep
from adaptvis.tuning.select import Selection, select
from adaptvis.tuning.store import store_presets

__all__ = ["DEFAULT_ALPHAS", "Grid", "Selection", "Sweep", "run_sweep", "select", "store_presets"]
