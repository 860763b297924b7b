"""`adaptvis doctor --check`: is every family steered rightly by the transformers at hand?"""

from importlib.util import find_spec

import typer

from adaptvis.cli.console import error
from adaptvis.errors import AdaptVisError

__all__ = ["doctor_check"]


def doctor_check() -> None:
    """Print one line per family; exit code 2 where one is not steered as it is defined."""
    for package in ("torch", "transformers"):
        if find_spec(package) is None:
            error(f"The check needs {package}: pip install {package}")
            raise typer.Exit(2)
    try:
        from adaptvis.hf import steer
        from adaptvis.hf.library import TESTED, VERSION, is_tested
        from adaptvis.hf.self_check import check_family, limits_of, tiny_families
    except (AdaptVisError, ImportError) as problem:
        error(str(problem))
        raise typer.Exit(2) from None
    families = tiny_families()
    width = max(map(len, families))
    known = "which the tests know" if is_tested() else "which no test has run on"
    typer.echo(f"transformers {VERSION}, {known}: each family on a tiny model")
    wrong = []
    for family in families:
        found = check_family(family, steer)
        if found:
            wrong.append(family)
        limit = "" if found else limits_of(family)
        what = f"problem: {found}" if found else f"ok; {limit}" if limit else "ok"
        typer.echo(f"{family:<{width}}  {what}")
    if wrong:
        error(
            f"{', '.join(wrong)} cannot be steered with transformers {VERSION}; adaptvis was "
            f"tested with {', '.join(TESTED)}"
        )
        raise typer.Exit(2)
