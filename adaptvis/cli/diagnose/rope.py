"""`adaptvis diagnose rope`."""

from typing import Annotated

import typer

from adaptvis.cli.diagnose.asked import Asked, asks_questions
from adaptvis.cli.diagnose.options import finish

__all__ = ["rope"]


@asks_questions(without=("batch_size",))
def rope(
    asked: Asked,
    steps: Annotated[
        float, typer.Option(help="Positions by which the image is moved; may be a fraction.")
    ] = 1.0,
) -> None:
    """How much attention on the image changes when its tokens are said to stand elsewhere.

    Example: `adaptvis diagnose rope -m tiny-2ds-seed1 --limit 100 --steps 0.1`
    """
    from adaptvis.cli.progress import Bars
    from adaptvis.diagnostics.rope.measure import measure_rope

    work = asked.prepare("rope")
    with Bars() as bars:
        result = measure_rope(
            work.engine,
            work.samples,
            steps=steps,
            config=work.config,
            settings=work.settings,
            progress=bars.show,
        )
    finish(result, work.folder)
