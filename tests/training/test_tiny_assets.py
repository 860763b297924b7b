"""The shipped models load without surprises and answer as documented."""

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from adaptvis.data import generate_prior

MODELS = Path(str(files("adaptvis"))) / "assets" / "models"


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("name", "low", "high"), [("tiny-2ds", 95, 100), ("tiny-2ds-shortcut", 20, 80)]
)
def test_shipped_model(name: str, low: float, high: float, seed: int) -> None:
    folder = MODELS / f"{name}-seed{seed}"
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    model, report = LlavaForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    samples = generate_prior("conflicting", "test", 0, 90)
    inputs = processor(
        images=[s.image for s in samples],
        text=[f"USER: <image>\n{s.question} ASSISTANT:" for s in samples],
        padding=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, max_new_tokens=3)[:, inputs.input_ids.shape[1] :]
    answers = processor.batch_decode(output, skip_special_tokens=True)
    hits = [a.strip() == s.answer for a, s in zip(answers, samples, strict=True)]
    assert low <= 100 * sum(hits) / len(hits) <= high


def test_all_models_together_stay_small() -> None:
    assert sum(p.stat().st_size for p in MODELS.rglob("*") if p.is_file()) < 12_500_000
