"""Amplify the directions of places in every image token, beside random directions.

A patched model answers as usual; the directions are those of examples/diagnostics/probes.py.
"""

from pathlib import Path

import adaptvis
from adaptvis.cli.models import resolve_model
from adaptvis.data.relation_pairs import relation_pairs
from adaptvis.diagnostics.amplification import AmplificationResult, measure_amplification
from adaptvis.diagnostics.probes import measure_probes
from adaptvis.diagnostics.results import write_result
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import get_task
from adaptvis.tasks.generated import task_samples

MODEL = "tiny-2ds-shortcut-seed1"


def main(output: Path, items: int = 30) -> AmplificationResult:
    engine = HFEngine.load(resolve_model(MODEL).source)
    directions = output / "directions.safetensors"
    measure_probes(engine, directions=directions)

    samples = task_samples(relation_pairs("test", items))
    config = adaptvis.Amplify(directions=directions, alpha=5.0)
    query = samples[0].query()
    with adaptvis.steer(engine.model, config):
        tokens = engine.model.generate(**engine.encode([query]), max_new_tokens=3, do_sample=False)
    print(engine.processor.batch_decode(tokens, skip_special_tokens=True)[0])

    result = measure_amplification(
        engine,
        directions,
        get_task("2ds"),
        samples,
        items=[sample.image_id for sample in samples],
        alphas=[2, 5, 15],
        controls=1,
        settings={"model": MODEL, "task": "2ds, relations both ways"},
    )
    for row in result.rows():
        print(f"{row['directions']:10} alpha {row['alpha']:<4g} {row['accuracy']:.3f}")
    write_result(result, output)
    return result


if __name__ == "__main__":
    main(Path("adaptvis-diagnostics"))
