"""`adaptvis diagnose attention`."""

from typing import Annotated

import typer

from adaptvis.cli.diagnose.asked import Asked, asks_questions
from adaptvis.cli.diagnose.options import finish
from adaptvis.errors import ConfigError

__all__ = ["attention"]


@asks_questions()
def attention(
    asked: Asked,
    words: Annotated[
        str | None,
        typer.Option(
            help="Also look from these words of the prompt, separated by commas: left,red.",
            show_default=False,
        ),
    ] = None,
    maps: Annotated[int, typer.Option(help="Draw the maps of so many questions; 0: none.")] = 4,
    layers: Annotated[
        str, typer.Option(help="Layers that the maps average: all, or for example 8-15.")
    ] = "all",
) -> None:
    """Where the model looks: entropy, shares of the prompt's parts, maps, overlap with objects.

    With a method or preset, everything is shown before and after steering.

    Examples:

    * `adaptvis diagnose attention -m tiny-2ds-shortcut-seed1 --preset scalingvis-text`
    * `adaptvis diagnose attention -m my-model -t vsr --data vsr --words left --limit 100`
    """
    from adaptvis.cli.progress import Bars
    from adaptvis.diagnostics.attention.maps import measure_attention_maps
    from adaptvis.diagnostics.attention.measure import measure_attention
    from adaptvis.diagnostics.attention.parts import check_words
    from adaptvis.diagnostics.choice import spread

    if maps < 0:
        raise ConfigError(f"--maps must not be negative, got {maps}")
    chosen = tuple(word.strip() for word in (words or "").split(",") if word.strip())
    averaged = _layers(layers)
    work = asked.prepare("attention", "attention_maps")
    check_words([sample.prompt for sample in work.samples], chosen)
    with Bars() as bars:
        # The maps first: they are quick, and refuse layers that the model does not have.
        pictures = None
        if maps:
            pictures = measure_attention_maps(
                work.engine,
                spread(work.samples, maps),
                config=work.config,
                words=chosen,
                layers=averaged,
                settings=work.settings,
                progress=bars.show,
            )
        result = measure_attention(
            work.engine,
            work.task,
            work.samples,
            config=work.config,
            words=chosen,
            batch_size=work.batch_size,
            seed=asked.seed,
            settings=work.settings,
            progress=bars.show,
        )
    finish(result, work.folder)
    if pictures is not None:
        finish(pictures, work.folder)


def _layers(text: str) -> tuple[int, ...] | None:
    from adaptvis.config import parse_indices

    if text == "all":
        return None
    try:
        return tuple(parse_indices(text))
    except ValueError as error:
        raise ConfigError(f"--layers: {error}") from None
