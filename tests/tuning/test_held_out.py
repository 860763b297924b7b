"""The test part where the objective needs questions that were not asked."""

import json
from pathlib import Path

import pytest
from evaluation.made import record
from rich.console import Console
from tuning.known import KnownEngine, numbered

from adaptvis.evaluation import Record
from adaptvis.tasks import Task
from adaptvis.tasks.mmvp import mmvp_metrics
from adaptvis.tuning import Grid
from adaptvis.tuning.held_out import held_out_gains
from adaptvis.tuning.run import TuningPlan, tune
from adaptvis.tuning.tables import held_out_table

PAIRS = Task(
    "pairs",
    "",
    lambda part: [],
    metrics=mmvp_metrics,
    joined_by="pair",
)


def answers(*numbers: int) -> list[Record]:
    """Questions 2n and 2n + 1 are a pair; unsteered, the even ones are wrong."""
    return [
        record(i, method, tags={"pair": str(i // 2)}, correct=method != "baseline" or i % 2 == 1)
        for i in numbers
        for method in ("baseline", "scalingvis")
    ]


def test_every_pair_is_there() -> None:
    (baseline, steered), problems = held_out_gains(answers(*range(12)), PAIRS, "pair_accuracy")
    assert (baseline.value, steered.value) == (0, 1)
    assert steered.gain is not None
    assert steered.gain.mean == 1
    assert problems == []


# No pair is complete; or one is, and without it nothing is left.
@pytest.mark.parametrize(
    ("numbers", "values", "questions"), [((0, 3), (None, None), 2), ((0, 1, 4, 7), (0, 1), 2)]
)
def test_where_the_objective_is_not_defined_accuracy_is_still_told(
    numbers: tuple[int, ...], values: tuple[float | None, ...], questions: int
) -> None:
    lines, problems = held_out_gains(answers(*numbers), PAIRS, "pair_accuracy")
    assert tuple(line.value for line in lines) == values
    assert [line.gain for line in lines] == [None, None]
    assert [line.accuracy for line in lines] == [0.5, 1.0]
    assert problems == [
        f"on the test part, pair_accuracy is not defined for {questions} of the questions; raise "
        "the limit"
    ]
    console = Console(width=100)
    with console.capture() as capture:
        console.print(held_out_table(lines))
    assert "100.0" in capture.get()


def test_a_whole_tuning_ends_with_a_warning(tmp_path: Path) -> None:
    def halves_of_pairs(part: str) -> list:  # type: ignore[type-arg]
        samples = numbered("test" if part == "test" else "validation")
        for i, sample in enumerate(samples):
            object.__setattr__(sample, "tags", {"pair": str(i if part == "test" else i // 2)})
        return samples

    task = Task("pairs", "", halves_of_pairs, metrics=mmvp_metrics)
    plan = TuningPlan(
        model="known",
        source="nowhere",
        task=task,
        grid=Grid(alphas=(0.8, 1.5), layers=(None, (1, 2))),
        objective="pair_accuracy",
    )
    tuned = tune(plan, KnownEngine, tmp_path)
    assert [line.accuracy for line in tuned.held_out] == pytest.approx([0.6, 0.9, 0.9])
    assert any("pair_accuracy is not defined" in line for line in tuned.warnings)
    found = json.loads((tmp_path / "adaptvis.json").read_text())["found"]["last_prompt_token"]
    assert found["test"]["scalingvis"] == {
        "questions": 330,
        "accuracy": pytest.approx(0.9),
        "pair_accuracy": None,
    }
