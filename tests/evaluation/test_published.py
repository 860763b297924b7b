"""The published rows, against the tables as they were printed."""

import numpy as np
import pytest
import torch

from adaptvis.config import AdaptVis, ScalingVis
from adaptvis.errors import ConfigError
from adaptvis.evaluation.published import PUBLISHED, published_row
from adaptvis.steering.policy import select_alpha

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
    "vsr": (0.5, 0.5, 1.2, 0.64),
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
    assert config.threshold == beta
    # The published code rounds to two decimals before it compares; on VSR it is a logit.
    assert config.compared == ("rounded_logit" if task == "vsr" else "rounded_confidence")
    values = [percent / 1000 + 0.0004 for percent in range(1, 1000)]
    expected = [low if np.round(value, 2) < beta else high for value in values]
    assert select_alpha(config, torch.tensor(values)).tolist() == pytest.approx(expected)


# Beyond Semantics, Table 3: LLaVA-1.5 + Normalize, + Normalize + Multilayer.
TABLE_3 = {
    "vqav2": (78.76, 79.17),
    "pope-popular": (87.30, 87.70),
    "gqa": (62.04, 62.52),
    "cv-bench-2d": (59.91, 58.69),
}


@pytest.mark.parametrize("task", TABLE_3)
def test_table_3_is_listed_and_says_why_it_cannot_be_run(task: str) -> None:
    for variant, value in zip(("normalize", "normalize_multilayer"), TABLE_3[task], strict=True):
        row = PUBLISHED[f"{variant}-llava-1.5-{task}"]
        assert row.values == {"accuracy": value}
        assert "fine-tuned checkpoint" in row.obstacle


def test_every_row_has_a_baseline_and_can_be_run_or_says_why_not() -> None:
    assert len(PUBLISHED) == 2 * 5 * 7 + 4 * 4 + 3
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
