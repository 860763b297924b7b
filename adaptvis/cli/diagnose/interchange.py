"""`adaptvis diagnose interchange`."""

from typing import Annotated

import typer

from adaptvis.cli.diagnose.options import (
    DEFAULT_MODEL,
    DtypeOption,
    MethodOption,
    ModelOption,
    OutputOption,
    PresetOption,
    SeedOption,
    TrustRemoteCodeOption,
    check_numbers,
    finish,
    load,
    result_folder,
    steering,
)
from adaptvis.errors import ConfigError, unknown_name

__all__ = ["interchange"]


def interchange(
    model: ModelOption = DEFAULT_MODEL,
    kind: Annotated[
        str, typer.Option(help="Things in the pictures: squares, shapes or objects.")
    ] = "squares",
    pairs: Annotated[
        int, typer.Option(help="Pairs of a question and its counterfactual.", min=1)
    ] = 50,
    wording: Annotated[
        str | None,
        typer.Option(
            help="published (with its system prompt) or short. Default: published, or short where "
            "the model's tokenizer lacks its words.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Pairs at once. Default: 64 for models up to 50 M parameters, 1 for others.",
            show_default=False,
            min=1,
        ),
    ] = None,
    seed: SeedOption = 0,
    preset: PresetOption = None,
    method: MethodOption = None,
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustRemoteCodeOption = False,
    output: OutputOption = None,
) -> None:
    """Where the order of things is: last token, image tokens, or the vision encoder alone.

    Three interventions of the Dual Mechanisms paper on pictures of three things: the last token's
    state from a counterfactual question, object tokens against whole strips exchanged with the
    mirrored picture, and things without places.

    Example: `adaptvis diagnose interchange -m tiny-2ds-seed1`
    """
    from adaptvis.cli.models import resolve_model
    from adaptvis.cli.progress import Bars
    from adaptvis.data.three_objects import KINDS
    from adaptvis.data.three_objects.items import WORDINGS
    from adaptvis.diagnostics.interchange import measure_interchange
    from adaptvis.diagnostics.prefill import fitting_batch

    if kind not in KINDS:
        raise ConfigError(unknown_name("kind", kind, KINDS))
    if wording is not None and wording not in WORDINGS:
        raise ConfigError(unknown_name("wording", wording, WORDINGS))
    check_numbers(seed, batch_size)
    name = resolve_model(model).name
    config = steering(model, preset=preset, method=method)
    folder = result_folder(output, "interchange")
    engine = load(model, dtype=dtype, trust_remote_code=trust_remote_code)
    with Bars() as bars:
        result = measure_interchange(
            engine,
            kind=kind,
            pairs=pairs,
            wording=wording,
            config=config,
            batch_size=batch_size or fitting_batch(engine),
            seed=seed,
            settings={"model": name},
            progress=bars.show,
        )
    finish(result, folder)
