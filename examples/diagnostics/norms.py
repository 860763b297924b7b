"""How much longer image tokens are than text tokens, before and after rescaling them.

python examples/diagnostics/norms.py
"""

from pathlib import Path

from adaptvis import NormRescale
from adaptvis.cli.models import resolve_model
from adaptvis.diagnostics.norms import measure_norms
from adaptvis.diagnostics.results import verdict, write_result
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import get_task


def main(folder: Path = Path("norms"), questions: int = 120) -> dict[str, float]:
    """Mean norm of image tokens by setting; pictures and tables go into ``folder``."""
    engine = HFEngine.load(resolve_model("tiny-2ds-shortcut-seed1").source)
    samples = get_task("2ds").load(questions)
    means = {}
    for name, config in (("as it is", None), ("rescaled", NormRescale(target="text"))):
        result = measure_norms(engine, samples, config=config, batch_size=32)
        (finding,) = result.findings()
        print(f"{name}: {finding.measured} -> {verdict(finding.holds)}")
        write_result(result, folder / name)
        means[name] = result.summary()["image tokens"]["mean"]
    return means


if __name__ == "__main__":
    main()
