"""`adaptvis diagnose norms`."""

from adaptvis.cli.diagnose.asked import Asked, asks_questions
from adaptvis.cli.diagnose.options import finish

__all__ = ["norms"]


@asks_questions()
def norms(
    asked: Asked,
) -> None:
    """Norms of image tokens against text tokens, at the language model's input and per layer.

    Example: `adaptvis diagnose norms -m tiny-2ds-seed1 --limit 100`
    """
    from adaptvis.cli.progress import Bars
    from adaptvis.diagnostics.norms import measure_norms

    work = asked.prepare("norms")
    with Bars() as bars:
        result = measure_norms(
            work.engine,
            work.samples,
            config=work.config,
            batch_size=work.batch_size,
            seed=asked.seed,
            settings=work.settings,
            progress=bars.show,
        )
    finish(result, work.folder)
