"""`adaptvis diagnose`: one subcommand per instrument."""

import typer

from adaptvis.cli.diagnose.interchange import interchange
from adaptvis.cli.diagnose.probes import probes

__all__ = ["diagnose"]

diagnose = typer.Typer(
    name="diagnose",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""See why a model is spatially blind: instruments with pictures, JSON and Parquet.

    Start with `adaptvis diagnose report`: all of them on a sample, in one page.""",
)

diagnose.command("interchange")(interchange)
diagnose.command("probes")(probes)
