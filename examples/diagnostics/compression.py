"""How few image tokens will do: pooled at inference, with another checkpoint beside it.

python examples/diagnostics/compression.py
"""

from pathlib import Path

from adaptvis.cli.models import resolve_model
from adaptvis.diagnostics.compression import study_compression
from adaptvis.diagnostics.results import write_result
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import get_task


def load(name: str) -> HFEngine:
    """An embedded model by name; a folder or a hub id works, too."""
    return HFEngine.load(resolve_model(name).source)


def main(folder: Path = Path("compression"), questions: int = 300) -> dict[str, float]:
    """Accuracy by number of image tokens, and of the other checkpoint."""
    task = get_task("2ds")
    result = study_compression(
        load("tiny-2ds-seed1"),
        task,
        task.load(questions),
        # A checkpoint that was trained with fewer tokens belongs here.
        variants={"shortcut": lambda: load("tiny-2ds-shortcut-seed1")},
        batch_size=64,
    )
    write_result(result, folder)
    accuracies = {
        str(result.full): next(iter(result.pooled.values()))[0].original,
        **{str(size): groups[0].changed for size, groups in result.pooled.items()},
        **{name: groups[0].changed for name, groups in result.variants.items()},
    }
    for name, accuracy in accuracies.items():
        print(f"{name:>10}: {accuracy:.1%}")
    return accuracies


if __name__ == "__main__":
    main()
