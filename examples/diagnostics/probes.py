"""Do object tokens tell places linearly? Probes with a shuffled-label control, and directions."""

from pathlib import Path

from adaptvis.cli.models import resolve_model
from adaptvis.diagnostics.probes import ProbesResult, measure_probes
from adaptvis.diagnostics.results import write_result
from adaptvis.hf.engine import HFEngine

MODEL = "tiny-2ds-seed1"


def main(output: Path) -> ProbesResult:
    engine = HFEngine.load(resolve_model(MODEL).source)
    result = measure_probes(
        engine, directions=output / "directions.safetensors", settings={"model": MODEL}
    )
    for probe in result.probes:
        print(f"{probe.axis:10} {probe.series:18} {probe.accuracy:.3f}")
    write_result(result, output)
    return result


if __name__ == "__main__":
    main(Path("adaptvis-diagnostics"))
