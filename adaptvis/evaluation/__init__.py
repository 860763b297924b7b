"""Evaluation: run models on tasks, keep every answer, summarise with intervals."""

from adaptvis.evaluation.plan import Method, ModelPlan, Plan
from adaptvis.evaluation.records import Record, read_records
from adaptvis.evaluation.runner import Run, evaluate
from adaptvis.evaluation.statistics import Gain, mcnemar, paired_gain, wilson_interval

__all__ = [
    "Gain",
    "Method",
    "ModelPlan",
    "Plan",
    "Record",
    "Run",
    "evaluate",
    "mcnemar",
    "paired_gain",
    "read_records",
    "wilson_interval",
]
