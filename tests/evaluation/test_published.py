"""The published rows, against the tables as they were printed."""

import pytest

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.errors import ConfigError
from adaptvis.evaluation.published import PUBLISHED, published_row

# LLaVA-1.5 of the project page: name of the row, Cont_A ... VG_two, VSR exact match and F1.
TABLE = """
base        60.3 73.1 53.0 58.2 35.9 40.8 62.4 51.3
scalingvis  64.5 75.2 53.6 59.4 42.7 48.1 64.9 62.5
adaptvis    84.9 83.8 53.6 59.9 42.7 48.1 65.0 62.5
"""
# alpha of ScalingVis; alpha1, alpha2 and beta of AdaptVis.
SETTINGS = {
    "controlled_a": (0.8, 0.5, 1.5, 0.4),
    "controlled_b": (0.8, 0.5, 1.5, 0.35),
    "coco_one": (1.2, 0.5, 1.2, 0.3),
    "coco_two": (1.2, 0.5, 1.2, 0.3),
    "vg_one": (2.0, 0.5, 2.0, 0.2),
    "vg_two": (2.0, 0.5, 2.0, 0.2),
    "vsr": (0.5, 0.5, 1.2, None),
}


@pytest.mark.parametrize("line", TABLE.split("\n")[1:-1])
def test_the_table_of_the_paper(line: str) -> None:
    method, *cells = line.split()
    values = [float(cell) for cell in cells]
    for task, value in zip(SETTINGS, values, strict=False):
        row = published_row(f"{method}-llava-1.5-{task}")
        assert (row.task, row.values["accuracy"]) == (task, value)
        assert (row.model, row.part) == ("llava-hf/llava-1.5-7b-hf", "test")
        assert (row.prompts, row.dtype) == ("raw", "float32")
    assert published_row(f"{method}-llava-1.5-vsr").values["reference_f1"] == values[-1]


@pytest.mark.parametrize("task", SETTINGS)
def test_the_published_settings(task: str) -> None:
    alpha, low, high, beta = SETTINGS[task]
    assert published_row(f"base-llava-1.5-{task}").config is None
    assert published_row(f"scalingvis-llava-1.5-{task}").config == ScalingVis(alpha=alpha)
    config = published_row(f"adaptvis-llava-1.5-{task}").config
    assert isinstance(config, AdaptVis)
    assert (config.alpha_low, config.alpha_high) == (low, high)
    if beta is None:
        # A logit is compared there, and practically never lies below 0.64.
        assert config.threshold == 0
        return
    for percent in range(1, 1000):
        # The published code rounds the confidence to two decimals before it compares.
        confidence = percent / 1000 + 0.0004
        assert (round(confidence, 2) < beta) == (confidence < config.threshold)


def test_every_row_has_a_baseline_and_can_be_run_or_says_why_not() -> None:
    assert len(PUBLISHED) == 2 * 5 * 7 + 3 * 4 - 1
    for name, row in PUBLISHED.items():
        assert row.baseline in PUBLISHED
        assert row.notes or row.obstacle
        if row.obstacle:
            with pytest.raises(ConfigError, match="cannot be reproduced: "):
                published_row(name)
    runnable = [row for row in PUBLISHED.values() if not row.obstacle]
    assert len(runnable) == 3 * 7 + 7 + 5
    assert not any(row.config for row in runnable if "1.6" in row.name)


def test_unknown_rows() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'adaptvis-llava-1.5-controlled_a'") as e:
        published_row("adaptvis-llava-1.5-controled_a")
    assert len(str(e.value)) < 200
