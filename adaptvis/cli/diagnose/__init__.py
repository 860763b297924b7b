"""`adaptvis diagnose`: one subcommand per instrument."""

import typer

from adaptvis.cli.diagnose.attention import attention
from adaptvis.cli.diagnose.compression import compression
from adaptvis.cli.diagnose.interchange import interchange
from adaptvis.cli.diagnose.norms import norms
from adaptvis.cli.diagnose.permutation import permutation
from adaptvis.cli.diagnose.probes import probes
from adaptvis.cli.diagnose.report import report
from adaptvis.cli.diagnose.rope import rope

__all__ = ["diagnose"]

diagnose = typer.Typer(
    name="diagnose",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""See why a model is spatially blind: instruments with pictures, JSON and Parquet.

    Start with `adaptvis diagnose report`: all of them on a sample, in one page.""",
)

diagnose.command("norms")(norms)
diagnose.command("permutation")(permutation)
diagnose.command("compression")(compression)
diagnose.command("attention")(attention)
diagnose.command("rope")(rope)
diagnose.command("interchange")(interchange)
diagnose.command("probes")(probes)
diagnose.command("report")(report)
