"""A patched transformers model in lm-evaluation-harness: unsteered and steered, one task of ours.

    pip install adaptvis lm-eval
    python examples/lm_evaluation_harness.py

The harness gets the model object, and patching is all that adaptvis does to it: any image task of
the harness with generated answers works the same way. The task here asks generated 2DS questions,
so that nothing is downloaded; its answers are graded by the rule of `adaptvis eval`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import lm_eval
from datasets import Dataset, DatasetDict, Features, Image, Sequence, Value
from lm_eval.models.hf_vlms import HFMultimodalLM
from transformers import AutoModelForImageTextToText

from adaptvis import ScalingVis, steer
from adaptvis.cli.models import resolve_model
from adaptvis.config import SteeringConfig
from adaptvis.tasks import get_task, grade

MODEL = "tiny-2ds-shortcut-seed1"
STEERED = ScalingVis(alpha=3.0, layers=(1, 2, 3), rows="text_after_image")


def dataset(limit: int) -> DatasetDict:
    """2DS questions as a table with a picture in every line."""
    samples = get_task("2ds").load(limit)
    features = Features(
        {
            "image": Image(),
            "question": Value("string"),
            "gold": Sequence(Value("string")),
            "candidates": Sequence(Value("string")),
        }
    )
    lines = [
        {
            "image": sample.images()[0],
            "question": sample.prompt,
            "gold": list(sample.gold),
            "candidates": list(sample.candidates),
        }
        for sample in samples
    ]
    return DatasetDict({"test": Dataset.from_list(lines, features=features)})


def task(limit: int) -> dict[str, Any]:
    """The harness's configuration of the task; the same keys as in one of its YAML files."""
    return {
        "task": "adaptvis_2ds",
        "custom_dataset": lambda **_: dataset(limit),
        "test_split": "test",
        "output_type": "generate_until",
        # The harness replaces <image> by the model's own placeholder.
        "doc_to_text": lambda line: "<image>" + line["question"],
        "doc_to_image": lambda line: [line["image"]],
        "doc_to_target": lambda line: line["gold"][0],
        "process_results": lambda line, answers: {
            "acc": grade(answers[0], line["gold"], line["candidates"]).correct
        },
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"max_gen_toks": 16, "do_sample": False, "until": []},
    }


def accuracy(model: Any, config: SteeringConfig | None, limit: int) -> tuple[float, list[str]]:
    """Accuracy under a configuration, and the answers, as the harness reports them."""
    with steer(model, config):
        results = lm_eval.simple_evaluate(
            model=HFMultimodalLM(pretrained=model, batch_size=16, max_length=512),
            tasks=[task(limit)],
            apply_chat_template=True,
            bootstrap_iters=0,
        )
    answers = sorted(results["samples"]["adaptvis_2ds"], key=lambda entry: entry["doc_id"])
    return (
        float(results["results"]["adaptvis_2ds"]["acc,none"]),
        [entry["resps"][0][0].strip() for entry in answers],
    )


def main(limit: int = 120) -> None:
    model: Any = AutoModelForImageTextToText.from_pretrained(resolve_model(MODEL).source).eval()
    for name, config in (("unsteered", None), ("steered", STEERED)):
        # The harness talks while it works.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            found, _ = accuracy(model, config, limit)
        print(f"{name}: {100 * found:.1f} %")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
