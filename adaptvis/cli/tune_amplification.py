"""`adaptvis tune --amplify`: the alpha of an amplification, beside random directions."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from adaptvis.cli.console import note, out
from adaptvis.cli.progress import Bars

if TYPE_CHECKING:
    from rich.table import Table

    from adaptvis.engine import Engine
    from adaptvis.tuning.amplification import AmplificationPlan, AmplificationTuned

__all__ = ["tune_amplify"]


def tune_amplify(
    plan: "AmplificationPlan",
    load_engine: Callable[[], "Engine"],
    folder: Path,
    *,
    resume: bool,
    asked: Sequence[str],
) -> None:
    """Tune, and print what came of it.

    Args:
        asked: options of `adaptvis eval` that repeat the model and the task.
    """
    from adaptvis.evaluation.tables import plain
    from adaptvis.tuning.amplification import tune_amplification
    from adaptvis.tuning.tables import held_out_table

    try:
        with Bars() as bars:
            tuned = tune_amplification(plan, load_engine, folder, resume=resume, progress=bars.show)
    except KeyboardInterrupt:
        note(f"interrupted; finish with the same options and --resume --output {folder}")
        raise typer.Exit(130) from None
    console = out()
    console.print(_ladder_table(tuned))
    console.print(_gain_table(tuned))
    if tuned.held_out:
        console.print(held_out_table(tuned.held_out))
    for warning in tuned.warnings:
        note(warning)
    console.print("Written to ", plain(str(folder), 500), "/", sep="", soft_wrap=True)
    if tuned.chosen is not None:
        preset = str(folder / "amplify.yaml")
        use = shlex.join(["adaptvis", "eval", *asked, "--method", "baseline", "--preset", preset])
        console.print(f"Use it: {use}", markup=False, soft_wrap=True)


def _table(*columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _ladder_table(tuned: "AmplificationTuned") -> Any:
    probe = tuned.ladders[0]
    table = _table("alpha", *("probe" if x is probe else x.name for x in tuned.ladders))
    for index, alpha in enumerate(probe.alphas):
        values = [f"{100 * ladder.points[index].mean():.1f}" for ladder in tuned.ladders]
        chosen = tuned.chosen is not None and tuned.chosen.alpha == alpha
        table.add_row(f"{alpha:g}{' (chosen)' if chosen else ''}", *values)
    table.caption = f"accuracy on {len(probe.images)} questions, per cent"
    return table


def _gain_table(tuned: "AmplificationTuned") -> Any:
    table = _table("out of fold", "points", "95 %", "verdict")
    gains = [("probe directions over none", tuned.gain)]
    gains += [
        (f"{ladder.name} over none", gain)
        for ladder, gain in zip(tuned.ladders[1:], tuned.control_gains, strict=True)
    ]
    gains.append(("probe directions over random ones", tuned.over_controls))
    for name, gain in gains:
        interval = f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
        table.add_row(name, f"{100 * gain.mean:+.1f}", interval, gain.verdict)
    return table
