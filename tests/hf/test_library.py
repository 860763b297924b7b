"""What differs between versions of transformers."""

import inspect
from types import SimpleNamespace

import pytest
import transformers
from hf.tiny_families import FAMILIES, build

from adaptvis.errors import UnsupportedError
from adaptvis.hf import family_for
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
    [("5.17.0", True), ("5.24.3", True), ("5.25.0", False), ("6.0.0", False), ("5.2.0", False)],
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
