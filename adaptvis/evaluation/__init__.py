"""Evaluation: run models on tasks, keep every answer, summarise with intervals."""

from adaptvis.evaluation.error_limit import ErrorLimit
from adaptvis.evaluation.merge import merge
from adaptvis.evaluation.plan import Method, ModelPlan, Plan
from adaptvis.evaluation.records import Record, iterate_records, read_records
from adaptvis.evaluation.runner import Run, evaluate
from adaptvis.evaluation.shards import Shard
from adaptvis.evaluation.statistics import Gain, mcnemar, paired_gain, wilson_interval

__all__ = [
    "ErrorLimit",
    "Gain",
    "Method",
    "ModelPlan",
    "Plan",
    "Record",
    "Run",
    "Shard",
    "evaluate",
    "iterate_records",
    "mcnemar",
    "merge",
    "paired_gain",
    "read_records",
    "wilson_interval",
]
