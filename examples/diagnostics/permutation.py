"""Does a model notice when its image tokens are shuffled? Accuracy, PSI, and one answer by hand.

python examples/diagnostics/permutation.py
"""

from pathlib import Path

from adaptvis.cli.models import resolve_model
from adaptvis.diagnostics.permutation import permutation_test, shuffled_images
from adaptvis.diagnostics.results import write_result
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import get_task


def main(folder: Path = Path("permutation"), questions: int = 300) -> float | None:
    """The position sensitivity index, as a fraction."""
    engine = HFEngine.load(resolve_model("tiny-2ds-seed1").source)
    task = get_task("2ds")
    samples = task.load(questions)

    query = samples[0].query()
    before = engine.answer([query], [None])[0][0].text
    with shuffled_images(engine, seed=0):
        after = engine.answer([query], [None])[0][0].text
    print(f"{query.prompt!r}: {before!r} in order, {after!r} shuffled")

    result = permutation_test(engine, task, samples, permutations=3, batch_size=64)
    write_result(result, folder)
    for finding in result.findings():
        print(f"{finding.claim}: {finding.measured}")
    return result.sensitivity["all questions"]["value"]


if __name__ == "__main__":
    main()
