"""The check that decides whether a transformers that nobody has tried may be steered."""

import pytest
import torch
import transformers
from hf.tiny_families import FAMILIES, build

import adaptvis
from adaptvis.errors import AdaptVisWarning, UnsupportedError
from adaptvis.hf import decoder_pass, known_families
from adaptvis.hf.self_check import check, check_family

UNTESTED = "5.99.0"


@pytest.fixture
def untested(monkeypatch):
    """A version that no test has seen, in a process that has checked nothing yet."""
    monkeypatch.setattr(check, "VERSION", UNTESTED)
    monkeypatch.setattr(check, "_found", {})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_agrees_with_its_definition(family):
    assert check_family(family, adaptvis.steer) == ""


def test_every_known_family_can_be_checked():
    assert set(FAMILIES) == set(known_families())


def test_a_coefficient_that_does_not_arrive_is_found(monkeypatch):
    right = decoder_pass.run_steered

    def unsteered(call, plan, alpha, start=0):
        return right(call, plan, torch.ones_like(alpha), start)

    monkeypatch.setattr(decoder_pass, "run_steered", unsteered)
    assert "gives other answers than its definition" in check_family("llava", adaptvis.steer)


def test_a_second_pass_at_the_wrong_row_is_found(monkeypatch):
    right = decoder_pass.DecoderCall.tail

    def shifted(call, start):
        tail = right(call, start)
        if start:
            tail.kwargs["position_ids"] = tail.kwargs["position_ids"] + 1
        return tail

    monkeypatch.setattr(decoder_pass.DecoderCall, "tail", shifted)
    assert "gives other answers than its definition" in check_family("qwen2_vl", adaptvis.steer)


def test_a_library_that_fails_is_a_reason_and_no_traceback(monkeypatch):
    def broken(*args, **kwargs):
        raise KeyError("cache_position")

    monkeypatch.setattr(transformers.LlavaModel, "get_image_features", broken)
    assert check_family("llava", adaptvis.steer) == (
        "a tiny model of it fails with KeyError: 'cache_position'"
    )


def test_an_untested_version_warns_once_and_steers_what_has_been_checked(untested):
    model, _ = build("llava")
    with (
        pytest.warns(AdaptVisWarning, match=rf"tested with transformers 5\.17.*found {UNTESTED}"),
        adaptvis.steer(model, adaptvis.ScalingVis(alpha=2.0)),
    ):
        pass
    with adaptvis.steer(model, adaptvis.ScalingVis(alpha=2.0)):
        pass
    assert "generate" not in model.__dict__


def test_an_untested_version_that_steers_wrongly_is_refused_and_leaves_the_model_alone(
    untested, monkeypatch
):
    right = decoder_pass.run_steered
    monkeypatch.setattr(
        decoder_pass,
        "run_steered",
        lambda call, plan, alpha, start=0: right(call, plan, alpha * 1.1, start),
    )
    model, _ = build("llava")
    with (
        pytest.warns(AdaptVisWarning),
        pytest.raises(UnsupportedError, match=r"llava with transformers 5\.99\.0: scalingvis"),
    ):
        adaptvis.patch(model, adaptvis.ScalingVis(alpha=2.0))
    assert not {"forward", "generate", "_adaptvis_stack"} & model.__dict__.keys()
    # Refused again, without being checked again.
    with pytest.raises(UnsupportedError):
        adaptvis.patch(model, None)


def test_a_tested_version_is_not_checked(monkeypatch):
    monkeypatch.setattr(check, "check_family", None)
    model, _ = build("llava")
    with adaptvis.steer(model, adaptvis.ScalingVis(alpha=2.0)):
        pass


def test_a_check_leaves_random_numbers_and_defaults_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert check_family("llava", adaptvis.steer) == ""
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.rand(4), expected)
