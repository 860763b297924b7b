"""Tasks: named sets of questions about images, with a deterministic grader."""

from adaptvis.tasks.base import PARTS, PROMPTS, Answered, Part, Prompts, Sample, Task
from adaptvis.tasks.grading import Grade, grade
from adaptvis.tasks.registry import TASKS, Listed, get_task
from adaptvis.tasks.splits import SPLITS, Split
from adaptvis.tasks.units import units_of

__all__ = [
    "PARTS",
    "PROMPTS",
    "SPLITS",
    "TASKS",
    "Answered",
    "Grade",
    "Listed",
    "Part",
    "Prompts",
    "Sample",
    "Split",
    "Task",
    "get_task",
    "grade",
    "units_of",
]
