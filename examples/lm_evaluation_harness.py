"""A patched transformers model in lm-evaluation-harness: unsteered and steered, one task of ours.

    pip install adaptvis lm-eval
    python examples/lm_evaluation_harness.py

The harness gets the model object, and patching is all that adaptvis does to it: any image task of
the harness with generated answers works the same way. Multiple choice and every other task that
scores given answers needs to say where each prompt ends, as `ScoringLM` does; the harness's own
class refuses such tasks with images. The task here asks generated 2DS questions, so that nothing is
downloaded: once with free answers, graded by the rule of `adaptvis eval`, and once as multiple
choice by the likelihood of the candidates.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import lm_eval
import torch
from datasets import Dataset, DatasetDict, Features, Image, Sequence, Value
from lm_eval.api.instance import Instance
from lm_eval.models.hf_vlms import HFMultimodalLM
from transformers import AutoModelForImageTextToText

from adaptvis import ScalingVis, steer
from adaptvis.cli.models import resolve_model
from adaptvis.config import SteeringConfig
from adaptvis.hf import SteeringHandle
from adaptvis.tasks import get_task, grade

MODEL = "tiny-2ds-shortcut-seed1"
STEERED = ScalingVis(alpha=3.0, layers=(1, 2, 3), rows="text_after_image")


class ScoringLM(HFMultimodalLM):
    """The harness's multimodal model, and the log-likelihoods that it lacks.

    handle: of the patched model; it is told where each prompt ends.
    """

    def __init__(self, handle: SteeringHandle, **options: Any) -> None:
        self.handle = handle
        super().__init__(**options)

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-probability of each answer behind its prompt, and whether it is the greedy one."""
        if requests and len(requests[0].args) < 3:  # no images
            return super().loglikelihood(requests, disable_tqdm)
        size = int(self.batch_size)
        chunks = [requests[start : start + size] for start in range(0, len(requests), size)]
        return [score for chunk in chunks for score in self._scores(chunk)]

    @torch.no_grad()
    def _scores(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        prompts = [request.args[0].rstrip() for request in requests]
        # Blanks at a prompt's end are tokens of its answer.
        answers = [r.args[0][len(p) :] + r.args[1] for p, r in zip(prompts, requests, strict=True)]
        images = [request.args[2]["visual"] for request in requests]
        alone = self.tok_batch_multimodal_encode(prompts, images, padding_side="right")
        whole = self.tok_batch_multimodal_encode(
            [p + a for p, a in zip(prompts, answers, strict=True)], images, padding_side="right"
        )
        lengths = alone["attention_mask"].sum(dim=1)
        with self.handle.scoring(lengths):
            logits = self.model(**whole).logits.float().log_softmax(dim=-1)
        ends = whole["attention_mask"].sum(dim=1).tolist()
        scores = []
        for row, start, end in zip(range(len(requests)), lengths.tolist(), ends, strict=True):
            predicted = logits[row, start - 1 : end - 1]
            tokens = whole["input_ids"][row, start:end]
            likelihood = predicted.gather(1, tokens[:, None]).sum()
            scores.append((float(likelihood), bool((predicted.argmax(dim=-1) == tokens).all())))
        return scores


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


def multiple_choice(limit: int) -> dict[str, Any]:
    """The same questions; the candidate of the highest likelihood is the answer."""
    kept = ("custom_dataset", "test_split", "doc_to_text", "doc_to_image")
    return {
        **{name: value for name, value in task(limit).items() if name in kept},
        "task": "adaptvis_2ds_choice",
        "output_type": "multiple_choice",
        "doc_to_choice": lambda line: line["candidates"],
        "doc_to_target": lambda line: line["candidates"].index(line["gold"][0]),
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def evaluate(
    model: Any, config: SteeringConfig | None, task: dict[str, Any]
) -> tuple[float, list[Any]]:
    """Accuracy under a configuration, and the answers, as the harness reports them.

    Returns:
        The accuracy, and for each question its answer, or log-likelihoods of its candidates.
    """
    with steer(model, config) as handle:
        results = lm_eval.simple_evaluate(
            model=ScoringLM(handle, pretrained=model, batch_size=16, max_length=512),
            tasks=[task],
            apply_chat_template=True,
            bootstrap_iters=0,
        )
    lines = sorted(results["samples"][task["task"]], key=lambda entry: entry["doc_id"])
    if task["output_type"] == "multiple_choice":
        answers = [[float(score[0][0]) for score in line["resps"]] for line in lines]
    else:
        answers = [line["resps"][0][0].strip() for line in lines]
    return float(results["results"][task["task"]]["acc,none"]), answers


def accuracy(model: Any, config: SteeringConfig | None, limit: int) -> tuple[float, list[str]]:
    """Accuracy of generated answers, and the answers."""
    return evaluate(model, config, task(limit))


def main(limit: int = 120) -> None:
    model: Any = AutoModelForImageTextToText.from_pretrained(resolve_model(MODEL).source).eval()
    for name, config in (("unsteered", None), ("steered", STEERED)):
        # The harness talks while it works.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            generated, _ = accuracy(model, config, limit)
            chosen, _ = evaluate(model, config, multiple_choice(limit))
        print(f"{name}: {100 * generated:.1f} % generated, {100 * chosen:.1f} % multiple choice")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
