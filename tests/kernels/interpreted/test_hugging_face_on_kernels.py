"""The transformers path with its attention, policy and norms computed by the Triton kernels."""

from __future__ import annotations

from collections import Counter

import adaptvis_kernels
import pytest
import torch
from hf.helpers import TOLERANCE, Case, generate

from adaptvis import AdaptVis, NormRescale, ScalingVis, steer
from adaptvis.steering import backend

pytestmark = pytest.mark.filterwarnings("ignore:.*pad_token_id")

FAMILIES = ["llava", "qwen2_vl", "gemma3", "paligemma"]
STEPS = 2


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each kernel was called."""
    counter: Counter[str] = Counter()

    def count(name: str) -> None:
        function = getattr(adaptvis_kernels, name)

        def counted(*args, **kwargs):
            counter[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(adaptvis_kernels, name, counted)

    for name in ("steered_decode", "steered_prefill", "select_alpha", "rescale_norms"):
        count(name)
    return counter


def assert_same(actual, expected) -> None:
    torch.testing.assert_close(actual[1], expected[1], atol=TOLERANCE, rtol=TOLERANCE)
    assert torch.equal(actual[0], expected[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_adapt_vis_on_kernels_equals_eager_steering(family: str, calls: Counter[str]) -> None:
    case = Case(family)
    plain = case.reference(None, steps=1)[1][0].softmax(-1).amax(-1)
    threshold = float(plain.mean())
    alpha = torch.where(plain < threshold, 0.4, 1.6)
    config = AdaptVis(alpha_low=0.4, alpha_high=1.6, threshold=threshold)
    with backend.override_backend("triton"), steer(case.model, config):
        steered = generate(case.model, case.inputs, STEPS)
    assert_same(steered, case.reference(alpha, steps=STEPS))
    assert calls["select_alpha"] == 1
    assert calls["steered_decode"] >= 1


@pytest.mark.parametrize("compared", ["rounded_confidence", "rounded_logit"])
def test_the_authors_rules_on_kernels_are_those_in_torch(
    compared: str, calls: Counter[str]
) -> None:
    edge = torch.tensor([0.395, 0.394, 0.396, 0.9], dtype=torch.float64)
    if compared == "rounded_confidence":
        others = torch.log((1 - edge) / 2)
        logits = torch.stack([torch.log(edge), others, others])
    else:
        logits = torch.stack([edge, edge - 1, edge - 2])
    logits = logits.T.float().contiguous()
    config = AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4, compared=compared)
    applies = torch.tensor([True, True, True, False])
    expected = backend.decide(config, logits, applies)
    each = backend.decide_each(logits, [config] * 4)
    with backend.override_backend("triton"):
        found = backend.decide(config, logits, applies)
        found_each = backend.decide_each(logits, [config] * 4)
    assert calls["select_alpha"] == 2
    assert expected[1].tolist()[1:] == [0.5, 1.5, 1.0]
    for actual, wanted in ((found, expected), (found_each, each)):
        torch.testing.assert_close(actual[0], wanted[0])
        assert actual[1].tolist()[1:] == wanted[1].tolist()[1:]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("most_decode_rows", [128, 1])
def test_text_rows_on_kernels_equal_eager_steering(
    family: str, most_decode_rows: int, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_MOST_DECODE_ROWS", most_decode_rows)
    case = Case(family)
    config = ScalingVis(alpha=1.5, rows="text_after_image")
    with backend.override_backend("triton"), steer(case.model, config):
        steered = generate(case.model, case.inputs, STEPS)
    assert_same(steered, case.reference(1.5, rows=case.text_rows(), steps=STEPS))
    assert calls["steered_decode" if most_decode_rows == 128 else "steered_prefill"] >= 1


def test_norm_rescaling_on_kernels_equals_torch(calls: Counter[str]) -> None:
    case = Case("llava")
    with steer(case.model, NormRescale()), steer(case.model, ScalingVis(alpha=1.4)):
        expected = generate(case.model, case.inputs, STEPS)
        with backend.override_backend("triton"):
            actual = generate(case.model, case.inputs, STEPS)
    assert_same(actual, expected)
    assert calls["rescale_norms"] >= 1
