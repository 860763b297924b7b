"""Where an embedded model looks before and after steering; pictures and tables in a folder.

python examples/diagnostics/attention.py [FOLDER]
"""

import sys
from importlib.resources import files
from pathlib import Path

from adaptvis.diagnostics.attention.maps import measure_attention_maps
from adaptvis.diagnostics.attention.measure import measure_attention
from adaptvis.diagnostics.results import write_result
from adaptvis.hf.engine import HFEngine
from adaptvis.presets import load_model_presets
from adaptvis.tasks import get_task

MODEL = str(files("adaptvis") / "assets/models/tiny-2ds-shortcut-seed1")


def main(folder: Path, questions: int = 60) -> None:
    engine = HFEngine.load(MODEL)
    task = get_task("2ds")
    samples = task.load(questions)
    steered = load_model_presets(MODEL)["scalingvis-text"]

    shares = measure_attention(
        engine, task, samples, config=steered, words=("left",), batch_size=60
    )
    for steering in shares.steerings:
        overall = shares.row(steering=steering).overall
        entropy, image = overall["entropy"].estimate(), overall["image"].estimate()
        print(f"{steering}: entropy {entropy['value']:.2f}, image {100 * image['value']:.0f} %")
    for finding in shares.findings():
        print(f"{finding.claim}: {finding.measured}")

    maps = measure_attention_maps(engine, samples[::20], config=steered, layers=(2, 3))
    for result in (shares, maps):
        print(write_result(result, folder)["png"])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "attention-example"))
