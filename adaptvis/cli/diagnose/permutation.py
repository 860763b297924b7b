"""`adaptvis diagnose permutation`."""

from typing import Annotated

import typer

from adaptvis.cli.diagnose.asked import Asked, asks_questions
from adaptvis.cli.diagnose.options import finish

__all__ = ["permutation"]


@asks_questions()
def permutation(
    asked: Asked,
    permutations: Annotated[int, typer.Option(help="Random orders to average over.")] = 3,
) -> None:
    """Accuracy with the image tokens in order and shuffled, and the position sensitivity (PSI).

    Example: `adaptvis diagnose permutation -m tiny-2ds-seed1 --limit 500 --permutations 5`
    """
    from adaptvis.cli.progress import Bars
    from adaptvis.diagnostics.permutation import permutation_test

    work = asked.prepare("permutation")
    with Bars() as bars:
        result = permutation_test(
            work.engine,
            work.task,
            work.samples,
            permutations=permutations,
            config=work.config,
            batch_size=work.batch_size,
            seed=asked.seed,
            settings=work.settings,
            progress=bars.show,
        )
    finish(result, work.folder)
