"""The command `adaptvis`: its commands, and how errors leave it.

Exit codes: 0 done; 1 an unexpected failure; 2 a wrong option, input or environment, said in one
sentence on stderr; 130 interrupted.
"""

import os
import sys
import warnings
from typing import Annotated

import typer

from adaptvis import __version__
from adaptvis.cli.console import error, show_warnings_as_notes
from adaptvis.cli.diagnose import diagnose
from adaptvis.cli.doctor import doctor
from adaptvis.cli.evaluate import evaluate_command
from adaptvis.cli.report import report
from adaptvis.cli.reproduce import reproduce
from adaptvis.cli.serve import VLLM_OPTIONS, serve
from adaptvis.cli.tasks import tasks
from adaptvis.cli.train import train
from adaptvis.cli.tune import tune
from adaptvis.errors import AdaptVisError

__all__ = ["app", "main"]

app = typer.Typer(
    name="adaptvis",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Inference-time attention steering for vision-language models.

    Start with `adaptvis eval`: without arguments it evaluates two small embedded models
    in about three minutes on a CPU, one that steering does not help and one that it does, and
    writes a page to look at, report.html. Then `adaptvis tune` finds a model's own settings, and
    `adaptvis reproduce --list` shows which published figures can be run again.""",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


app.command("eval")(evaluate_command)
app.command("report")(report)
app.command("tasks")(tasks)
app.command("tune")(tune)
app.command("reproduce")(reproduce)
app.add_typer(diagnose)
app.command("train")(train)
app.command("serve", context_settings=VLLM_OPTIONS)(serve)
app.command("doctor")(doctor)


def main() -> None:
    """Run the command line and exit."""
    # The libraries' own progress bars and advice would tear the tables.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with warnings.catch_warnings():
            show_warnings_as_notes()
            app(prog_name="adaptvis")
    except AdaptVisError as problem:
        error(str(problem))
        sys.exit(2)
    except BrokenPipeError:
        # The reader went away (`adaptvis tasks | head`); Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
