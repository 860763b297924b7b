"""`adaptvis diagnose compression`."""

from typing import Annotated

import typer

from adaptvis.cli.diagnose.options import (
    DEFAULT_MODEL,
    BatchSizeOption,
    DataOption,
    DtypeOption,
    LimitOption,
    MethodOption,
    ModelOption,
    OutputOption,
    PartOption,
    PresetOption,
    SeedOption,
    TaskOption,
    TrustRemoteCodeOption,
    finish,
    load,
    prepare,
)
from adaptvis.errors import ConfigError

__all__ = ["compression"]


def compression(
    model: ModelOption = DEFAULT_MODEL,
    task: TaskOption = "2ds",
    data: DataOption = None,
    part: PartOption = "test",
    limit: LimitOption = 200,
    seed: SeedOption = 0,
    batch_size: BatchSizeOption = None,
    preset: PresetOption = None,
    method: MethodOption = None,
    dtype: DtypeOption = "auto",
    trust_remote_code: TrustRemoteCodeOption = False,
    output: OutputOption = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            help="Image tokens per image, square numbers separated by commas. Default: "
            "256,64,16,1, and squares of halved sides for small grids.",
            show_default=False,
        ),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="Another checkpoint beside it, as NAME=MODEL, such as one trained with "
            "compression. Repeatable.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Accuracy with the image tokens pooled to fewer, and of checkpoints trained so.

    Examples:

    * `adaptvis diagnose compression -m tiny-2ds-seed1 --tokens 16,4,1`
    * `adaptvis diagnose compression -m llava-hf/llava-1.5-7b-hf --variant one=trained-with-1`
    """
    from functools import partial

    from adaptvis.cli.progress import Bars
    from adaptvis.diagnostics.compression import study_compression

    sizes = None if tokens is None else _sizes(tokens)
    others = [_variant(text) for text in variant or ()]
    if len({name for name, _ in others}) < len(others):
        raise ConfigError("Two variants have the same name; give each --variant its own")
    work = prepare(
        model,
        task,
        data=data,
        part=part,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        preset=preset,
        method=method,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
    )
    with Bars() as bars:
        result = study_compression(
            work.engine,
            work.task,
            work.samples,
            sizes=sizes,
            variants={
                name: partial(load, source, dtype=dtype, trust_remote_code=trust_remote_code)
                for name, source in others
            },
            config=work.config,
            batch_size=work.batch_size,
            seed=seed,
            settings=work.settings,
            progress=bars.show,
        )
    finish(result, output)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--tokens takes whole numbers separated by commas such as 64,16,1, got {text!r}"
        ) from None


def _variant(text: str) -> tuple[str, str]:
    from adaptvis.cli.models import resolve_model

    name, equals, model = text.partition("=")
    if not (name and equals and model):
        raise ConfigError(f"--variant takes NAME=MODEL, got {text!r}")
    # Refused now, not after the other models have been asked.
    resolve_model(model)
    return name, model
