"""What differs between versions of transformers."""

import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from hf.helpers import TOLERANCE, Case, generate
from hf.tiny_families import FAMILIES, build
from transformers.utils import generic

from adaptvis import ScalingVis, steer
from adaptvis.errors import UnsupportedError
from adaptvis.hf import family_for
from adaptvis.hf.cache import clear, sequence_length
from adaptvis.hf.library import (
    TESTED,
    cache_argument,
    cache_of,
    decoding_fault,
    image_defaults,
    is_tested,
)


def test_the_installed_transformers_is_one_that_the_tests_know():
    assert is_tested()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("5.17.0", True),
        ("5.24.3", True),
        ("5.25.0", False),
        ("6.0.0", False),
        ("5.2.0", False),
        ("5.24.0.dev0", False),
        ("5.24.0rc1", False),
    ],
)
def test_a_version_is_known_by_its_series(version, expected):
    assert is_tested(version) is expected


@pytest.mark.parametrize("family", FAMILIES)
def test_the_decoder_and_the_model_call_the_cache_alike(family):
    model, _ = build(family)
    decoder = family_for(model.config).decoder_of(model)
    names = {
        cache_argument(inspect.signature(module.forward).parameters) for module in (model, decoder)
    }
    assert len(names) == 1


def test_the_newer_name_of_the_cache_is_preferred():
    assert cache_argument(["inputs_embeds", "past_key_values"]) == "past_key_values"
    assert cache_argument(["past_key_values", "cache"]) == "cache"


def test_a_decoder_without_a_known_cache_is_refused_with_what_it_takes():
    with pytest.raises(UnsupportedError, match=r"\(inputs_embeds, memory\); expected cache or"):
        cache_argument(["inputs_embeds", "memory"])


def test_an_output_is_asked_for_its_cache_under_either_name():
    cache = transformers.DynamicCache()
    assert cache_of({"cache": cache}) is cache
    assert cache_of({"past_key_values": cache}) is cache
    assert cache_of({"last_hidden_state": None}) is None
    assert cache_of({"cache": cache, "past_key_values": cache}) is cache
    with pytest.raises(UnsupportedError, match=r"two key-value caches.*drops the second; give one"):
        cache_of({"cache": cache, "past_key_values": transformers.DynamicCache()})


def test_a_cleared_cache_is_as_a_new_one():
    cache = transformers.DynamicCache()
    tokens = torch.ones(1, 2, 3, 4)
    cache.update(tokens, tokens, 0)
    clear(cache)
    assert sequence_length(cache) == 0
    keys, _ = cache.update(2 * tokens, tokens, 0)
    assert torch.equal(keys, 2 * tokens)


def test_paligemma_is_refused_past_the_first_token_where_the_library_decodes_it_wrongly():
    case = Case("paligemma")
    with steer(case.model, ScalingVis(alpha=1.8)):
        first = generate(case.model, case.inputs, steps=1)[1]
        if fault := decoding_fault(case.model):
            with pytest.raises(UnsupportedError) as refusal:
                generate(case.model, case.inputs, steps=2)
            assert str(refusal.value) == fault
            assert "install 5.18 or later, or ask for one token (max_new_tokens=1)" in fault
    expected = case.reference(1.8, steps=1)[1]
    torch.testing.assert_close(first, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_a_library_that_lacks_a_name_is_refused_in_one_sentence():
    program = (
        "import transformers.masking_utils as masks; del masks.eager_mask\n"
        "from adaptvis.errors import UnsupportedError\n"
        "try: import adaptvis.hf\n"
        "except UnsupportedError as refusal: print(refusal)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert "lacks what adaptvis needs (cannot import name 'eager_mask'" in said
    assert "install one of 5.17" in said


def test_processor_defaults_are_read_where_either_version_keeps_them():
    kwargs = SimpleNamespace(_defaults={"images_kwargs": {"do_pan_and_scan": False}})
    old = SimpleNamespace(valid_processor_kwargs=kwargs)
    new = SimpleNamespace(
        valid_processor_kwargs=SimpleNamespace(), images_kwargs={"crop_to_patches": True}
    )
    assert image_defaults(old) == {"do_pan_and_scan": False}
    assert image_defaults(new) == {"crop_to_patches": True}
    assert image_defaults(SimpleNamespace()) == {}


def test_only_paligemma_before_its_mend_is_said_to_decode_wrongly():
    for family in FAMILIES:
        model, _ = build(family)
        broken = family == "paligemma" and transformers.__version__.startswith(TESTED[0])
        assert bool(decoding_fault(model)) is broken


def test_no_steered_call_uses_a_name_that_the_library_has_deprecated(monkeypatch):
    case, told = Case("llava"), []
    monkeypatch.setattr(generic.logger, "warning_once", told.append)
    with steer(case.model, ScalingVis(alpha=1.5, rows="generated")), torch.no_grad():
        generate(case.model, case.inputs)
        generate(case.model, case.inputs, use_cache=False)
        case.model(**case.inputs, logits_to_keep=1)
    assert [text for text in told if "deprecated" in text] == []
