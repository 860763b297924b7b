"""All instruments on one or several models, and one page that shows what they found."""

from adaptvis.diagnostics.report.instruments import INSTRUMENTS, Instrument, Subject
from adaptvis.diagnostics.report.page import PAGE, write_page
from adaptvis.diagnostics.report.run import Examined, Outcome, examine

__all__ = [
    "INSTRUMENTS",
    "PAGE",
    "Examined",
    "Instrument",
    "Outcome",
    "Subject",
    "examine",
    "write_page",
]
