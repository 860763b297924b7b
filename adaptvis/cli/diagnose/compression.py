"""`adaptvis diagnose compression`."""

from typing import Annotated

import typer

from adaptvis.cli.diagnose.asked import Asked, asks_questions
from adaptvis.cli.diagnose.options import finish, load
from adaptvis.errors import ConfigError

__all__ = ["compression"]


@asks_questions()
def compression(
    asked: Asked,
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
    loading = partial(load, dtype=asked.dtype, trust_remote_code=asked.trust_remote_code)
    work = asked.prepare("compression")
    with Bars() as bars:
        result = study_compression(
            work.engine,
            work.task,
            work.samples,
            sizes=sizes,
            variants={name: partial(loading, source) for name, source in others},
            config=work.config,
            batch_size=work.batch_size,
            seed=asked.seed,
            settings=work.settings,
            progress=bars.show,
        )
    finish(result, work.folder)


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
