"""The HTML report of a run: one file that needs neither network nor server."""

from adaptvis.evaluation.report.document import REPORT, write_report
from adaptvis.evaluation.report.examples import PER_DIRECTION, Changed, changed_answers
from adaptvis.evaluation.report.rebuild import ATTENTION, Reopened, rebuild_report, write_attention

__all__ = [
    "ATTENTION",
    "PER_DIRECTION",
    "REPORT",
    "Changed",
    "Reopened",
    "changed_answers",
    "rebuild_report",
    "write_attention",
    "write_report",
]
