"""Tasks: named sets of questions about images, with a deterministic grader."""

from adaptvis.tasks.base import PARTS, PROMPTS, Answered, Part, Prompts, Sample, Task
from adaptvis.tasks.grading import Grade, grade
from adaptvis.tasks.registry import TASKS, get_task

__all__ = [
    "PARTS",
    "PROMPTS",
    "TASKS",
    "Answered",
    "Grade",
    "Part",
    "Prompts",
    "Sample",
    "Task",
    "get_task",
    "grade",
]
