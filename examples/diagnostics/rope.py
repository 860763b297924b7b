"""How much an embedded model's attention cares about where image tokens are said to stand.

python examples/diagnostics/rope.py [FOLDER]
"""

import sys
from importlib.resources import files
from pathlib import Path

from adaptvis.diagnostics.results import write_result
from adaptvis.diagnostics.rope.measure import measure_rope
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import get_task

MODEL = str(files("adaptvis") / "assets/models/tiny-2ds-seed1")


def main(folder: Path, questions: int = 60) -> None:
    engine = HFEngine.load(MODEL)
    samples = get_task("2ds").load(questions)
    # The theory is of first order: it is judged at 0.05 positions, whichever are shown.
    for steps in (0.1, 1.0):
        result = measure_rope(engine, samples, steps=steps)
        change = result.overall_change.estimate()["value"]
        print(f"{steps:g} positions: the image's share changes by {100 * change:.2f} points")
        small, whole = result.judged_determination, result.determination
        print(f"R squared of the theory: {small:.3f} at {result.judged_steps:g}, here {whole:.3f}")
    print(write_result(result, folder)["png"])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "rope-example"))
