"""The HTML report of a run: one file that needs neither network nor server."""

from adaptvis.evaluation.report.document import REPORT, write_report
from adaptvis.evaluation.report.examples import Changed, changed_answers

__all__ = ["REPORT", "Changed", "changed_answers", "write_report"]
