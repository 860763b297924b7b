"""`python -m adaptvis.training.tiny --recipe NAME --seed N --output DIR`."""

import argparse
import sys
import time

from adaptvis.errors import AdaptVisError
from adaptvis.training.tiny import RECIPES, run_recipe


def main() -> int:
    """Trains one recipe; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m adaptvis.training.tiny", description=__doc__)
    parser.add_argument("--recipe", required=True, help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, help="folder for the trained model")
    parser.add_argument("--base", help="model to continue from (recipes that have a base)")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run")
    given = parser.parse_args()
    start = time.perf_counter()

    def progress(line: str) -> None:
        print(f"[{time.perf_counter() - start:7.0f} s] {line}", flush=True)

    try:
        folder = run_recipe(
            given.recipe,
            given.output,
            given.seed,
            base=given.base,
            resume=given.resume,
            progress=progress,
        )
    except AdaptVisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    progress(f"wrote {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
