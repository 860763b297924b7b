"""A training process that dies by SIGKILL at a chosen point; started by test_resume.

`python interrupted.py OUTPUT POINT [--resume]`; POINT is STAGE:STEP, behind that step; STAGE:save,
in the middle of writing the optimiser's file; or `model`, in the middle of the finished model.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from adaptvis.training.llava import Settings, finish, load_recipe, override, run_recipe


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from training.llava.small import SMALL

    output, point = Path(sys.argv[1]), sys.argv[2]
    recipe = override(load_recipe("tiny-2ds-normalize"), SMALL)
    stage, _, when = point.partition(":")
    reached = {"stage": ""}

    def progress(report):
        reached["stage"] = report["stage"]
        if (report["stage"], str(report["step"])) == (stage, when):
            die()

    save = torch.save

    def half_saved(what, path, *more, **options):
        save(what, path, *more, **options)
        if when == "save" and reached["stage"] == stage and Path(path).name == "optimizer.pt":
            os.truncate(path, os.path.getsize(path) // 2)
            die()

    torch.save = half_saved
    if point == "model":
        finish.move_up = lambda folder, target: die()
        from adaptvis.training.llava import run

        run.move_up = finish.move_up
    run_recipe(recipe, output, Settings(seed=1, progress=progress), resume="--resume" in sys.argv)


if __name__ == "__main__":
    main()
