"""`adaptvis diagnose report`."""

import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from adaptvis.cli.console import note, out
from adaptvis.cli.diagnose.options import (
    DEFAULT_MODEL,
    BatchSizeOption,
    DataOption,
    DtypeOption,
    MethodOption,
    OutputOption,
    PartOption,
    PresetOption,
    SeedOption,
    TaskOption,
    TrustRemoteCodeOption,
    check_numbers,
    findings_table,
    load,
    questions,
    refuse_held,
    result_folder,
    steering,
    task_of,
)
from adaptvis.errors import AdaptVisError, ConfigError, OutputError, unknown_name

if TYPE_CHECKING:
    from adaptvis.cli.progress import Bars

__all__ = ["report"]


def report(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Model folder, hub id (org/name) or embedded model. Repeatable: side by side. "
            f"Default: {DEFAULT_MODEL}.",
            show_default=False,
        ),
    ] = None,
    task: TaskOption = "2ds",
    data: DataOption = None,
    part: PartOption = "test",
    limit: Annotated[
        int | None,
        typer.Option(
            help="Questions of the task for every instrument that asks some; interchange and "
            "probes draw pictures of their own. Default: each instrument's own number.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this instrument. Repeatable. Default: all of them.", show_default=False
        ),
    ] = None,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = None,
    preset: PresetOption = None,
    method: MethodOption = None,
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustRemoteCodeOption = False,
    output: OutputOption = None,
) -> None:
    """Run all instruments on a sample, and write one page that can be sent to a colleague.

    The page, report.html, says which claims of the papers hold for the model, and shows every
    instrument's picture with how to read it. Several models stand side by side. An instrument that
    a model does not support says so in its place. The embedded model takes about a minute on two
    CPU cores.

    Examples:

    * `adaptvis diagnose report`
    * `adaptvis diagnose report -m llava-hf/llava-1.5-7b-hf --dtype bfloat16 --limit 100`
    * `adaptvis diagnose report -m tiny-2ds-shortcut-seed1 -m tiny-2ds-seed1 --only norms`
    """
    from adaptvis.cli.models import check_engine, resolve_model
    from adaptvis.cli.progress import Bars
    from adaptvis.diagnostics.report import (
        INSTRUMENTS,
        PAGE,
        Examined,
        Instrument,
        Outcome,
        examine,
        write_page,
    )
    from adaptvis.tasks import Part

    check_engine("hf", dtype)
    check_numbers(seed, batch_size)
    known = {instrument.name: instrument for instrument in INSTRUMENTS}
    for name in only or ():
        if name not in known:
            raise ConfigError(unknown_name("instrument", name, known))
    instruments = [i for i in INSTRUMENTS if not only or i.name in only]
    typed = list(dict.fromkeys(model or [DEFAULT_MODEL]))
    models = [resolve_model(text) for text in typed]
    configs = [steering(text, preset=preset, method=method) for text in typed]
    chosen = task_of(task, data)
    questions(chosen, part=part, limit=limit)
    folder = result_folder(output)
    names = _folders([m.name for m in models])
    refuse_held([folder / PAGE, *(folder / name for name in names)])
    shared = {
        "task": task,
        "data": data,
        "part": None if part == "test" else part,
        "seed": seed or None,
        "batch-size": batch_size,
        "preset": preset,
        "method": method,
    }
    loading = _typed({"dtype": None if dtype == "auto" else dtype})
    loading += ["--trust-remote-code"] if trust_remote_code else []

    def repeat(text: str, instrument: Instrument, count: int | None) -> str:
        own = {**shared, "limit": count}
        taken = {name: own[name] for name in own if name in instrument.options}
        begin = ["adaptvis", "diagnose", *(instrument.command or (instrument.name,))]
        return shlex.join([*begin, "--model", text, *_typed(taken), *loading])

    examined: list[Examined] = []
    stopped: BaseException | None = None
    with Bars() as bars:
        for text, resolved, config, own in zip(typed, models, configs, names, strict=True):
            outcomes: list[Outcome] = []
            try:
                of_this = examine(
                    resolved.name,
                    partial(load, text, dtype=dtype, trust_remote_code=trust_remote_code),
                    chosen,
                    folder / own,
                    command=partial(repeat, text),
                    instruments=instruments,
                    config=config,
                    part=cast("Part", part),
                    published=data is not None,
                    limit=limit,
                    batch_size=batch_size,
                    seed=seed,
                    outcomes=outcomes,
                    progress=partial(_show, bars, resolved.name if len(models) > 1 else ""),
                )
            except (KeyboardInterrupt, OutputError) as problem:
                stopped = problem
                if outcomes:
                    engine = next((o.result.engine for o in outcomes if o.result), {})
                    examined.append(Examined(resolved.name, engine, outcomes))
                break
            examined.append(of_this)
    if stopped is not None and not examined:
        if isinstance(stopped, KeyboardInterrupt):
            note("interrupted before an instrument finished; nothing was written")
            raise typer.Exit(130) from None
        raise stopped
    whole = ["adaptvis", "diagnose", "report"]
    whole += [part for text in typed for part in ("--model", text)]
    whole += _typed({**shared, "limit": limit}) + loading
    whole += [part for name in only or () for part in ("--only", name)]
    about = {
        "task": chosen.name,
        "part": part,
        "questions": "each instrument's own number" if limit is None else limit,
        "seed": seed,
        "steering": method or preset or "none",
    }
    if stopped is not None:
        about["finished"] = "no: stopped before the last instrument"
    try:
        path = write_page(examined, folder, command=shlex.join(whole), about=about)
    except OutputError as problem:
        # Where a result could not be written, the page often cannot either: say the first reason.
        raise stopped if isinstance(stopped, OutputError) else problem from None
    if isinstance(stopped, KeyboardInterrupt):
        note(f"interrupted; what was finished before is in {path} and the files beside it")
        raise typer.Exit(130)
    if stopped is not None:
        note(f"stopped; what was finished before is in {path}")
        raise stopped
    console = out()
    for of_model in examined:
        console.print(of_model.model, style="bold", markup=False, soft_wrap=True)
        found = [f for o in of_model.outcomes if o.result for f in o.result.findings()]
        if found:
            console.print(findings_table(found))
        for outcome in of_model.outcomes:
            if outcome.result is None:
                note(f"{of_model.model}, {outcome.instrument}: {outcome.problem}")
    console.print(f"Look at {path}", markup=False, soft_wrap=True)
    if not any(o.result for of_model in examined for o in of_model.outcomes):
        raise AdaptVisError(f"No instrument finished; {path} says why")


def _show(bars: "Bars", model: str, doing: str, done: int, total: int) -> None:
    bars.show(f"{model[-24:]}  {doing}" if model else doing, done, total)


def _typed(options: Mapping[str, object]) -> list[str]:
    """The options that have a value, as they are typed."""
    return [
        part
        for name, value in options.items()
        if value is not None
        for part in (f"--{name}", str(value))
    ]


def _folders(names: list[str]) -> list[str]:
    """A folder for each model; hub ids hold a slash, and two folders may have one name."""
    plain = [Path(name.replace("/", "--")).name or "model" for name in names]
    return [
        name if plain.count(name) == 1 else f"{name}-{plain[: index + 1].count(name)}"
        for index, name in enumerate(plain)
    ]
