"""Which image tokens hold the order of things: object tokens, or whole strips of the picture?

Dual Mechanisms, section 5: exchange them with those of the mirrored picture, layer by layer.
"""

from pathlib import Path

from adaptvis.cli.models import resolve_model
from adaptvis.diagnostics.interchange import InterchangeResult, measure_interchange
from adaptvis.diagnostics.results import write_result
from adaptvis.hf.engine import HFEngine

MODEL = "tiny-2ds-seed1"


def main(output: Path, pairs: int = 50) -> InterchangeResult:
    engine = HFEngine.load(resolve_model(MODEL).source)
    result = measure_interchange(engine, pairs=pairs, settings={"model": MODEL})
    for region, shares in (result.flips or {}).items():
        print(f"{region:10}", "  ".join(f"layer {n}: {share}" for n, share in enumerate(shares)))
    for finding in result.findings():
        print(f"{finding.holds!s:5} {finding.claim}: {finding.measured}")
    write_result(result, output)
    return result


if __name__ == "__main__":
    main(Path("adaptvis-diagnostics"))
