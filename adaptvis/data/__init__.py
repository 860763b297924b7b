"""Synthetic scenes with spatial questions: 2DS as published, and the text-shortcut variant."""

from adaptvis.data.prior import PRIOR_TABLE, PriorTable, generate_prior
from adaptvis.data.questions import CATEGORIES, Question, questions_about
from adaptvis.data.samples import Sample
from adaptvis.data.scenes import Scene, SceneObject, part_of, random_scene, render
from adaptvis.data.two_ds import Entry, generate_2ds, read_parquet, two_ds_samples, write_parquet

__all__ = [
    "CATEGORIES",
    "PRIOR_TABLE",
    "Entry",
    "PriorTable",
    "Question",
    "Sample",
    "Scene",
    "SceneObject",
    "generate_2ds",
    "generate_prior",
    "part_of",
    "questions_about",
    "random_scene",
    "read_parquet",
    "render",
    "two_ds_samples",
    "write_parquet",
]
