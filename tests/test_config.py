"""Configurations are values: validated, hashable, and the same after a round trip."""

import json
import math

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adaptvis.config import (
    AdaptVis,
    Amplify,
    NormRescale,
    Region,
    ScalingVis,
    load_config,
    parse_config,
)
from adaptvis.errors import ConfigError
from adaptvis.presets import PRESETS, load_model_presets, preset

coefficients = st.floats(min_value=1e-6, max_value=1000)
indices = st.none() | st.sets(st.integers(0, 100), min_size=1).map(tuple)
regions = st.builds(
    lambda left, top, width, height, image: Region(
        box=(left, top, left + width, top + height), image_size=(400, 400), image=image
    ),
    st.integers(0, 100),
    st.integers(0, 100),
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(0, 5),
)
where = {
    "layers": indices,
    "heads": indices,
    "rows": st.sampled_from(["last_prompt_token", "generated", "text_after_image"]),
}
configs = st.one_of(
    st.builds(ScalingVis, alpha=coefficients, images=indices, **where),
    st.builds(
        AdaptVis,
        alpha_low=coefficients,
        alpha_high=coefficients,
        threshold=st.floats(0, 1),
        compared=st.sampled_from([None, "rounded_confidence", "rounded_logit"]),
        regions=st.none() | st.lists(regions, min_size=1, max_size=3).map(tuple),
        **where,
    ),
    st.builds(NormRescale, target=st.just("text") | coefficients, clip=st.none() | coefficients),
    st.builds(
        Amplify,
        directions=st.text(min_size=1, max_size=20),
        alpha=st.floats(0, 100, exclude_min=True),
        axes=st.none() | st.lists(st.text("abc", min_size=1), min_size=1).map(tuple),
        sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    ),
    st.builds(NormRescale, target=st.none(), clip=st.just("text") | coefficients),
)


@given(configs)
def test_json_and_yaml_round_trips_give_an_equal_value_with_an_equal_hash(config):
    for again in (
        parse_config(config.to_json()),
        parse_config(yaml.safe_load(config.to_yaml())),
        parse_config(config.to_dict()),
    ):
        assert again == config
        assert hash(again) == hash(config)


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_configurations_load_from_files(tmp_path, suffix):
    config = AdaptVis(alpha_low=0.7, threshold=0.3, layers="1-3,5")
    path = tmp_path / f"config{suffix}"
    path.write_text(config.to_json() if suffix == ".json" else config.to_yaml())
    assert load_config(path) == config


def test_ranges_are_read_and_order_does_not_matter():
    assert ScalingVis(alpha=1.2, layers="1-3,7").layers == (1, 2, 3, 7)
    assert ScalingVis(alpha=1, heads=[3, 1, 3]) == ScalingVis(alpha=1, heads=(1, 3))


def test_configurations_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        ScalingVis(alpha=1.2).alpha = 3


def test_the_published_defaults():
    assert (AdaptVis().alpha_low, AdaptVis().alpha_high, AdaptVis().threshold) == (0.5, 1.5, 0.4)
    assert AdaptVis().rows == "last_prompt_token"
    assert NormRescale().target == "text"


def test_low_may_exceed_high_and_zero_flattens():
    assert AdaptVis(alpha_low=2.0, alpha_high=0.5).alpha_low == 2.0
    assert ScalingVis(alpha=0).alpha == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ScalingVis(), "alpha: is required"),
        (lambda: ScalingVis(alpha=math.nan), "alpha: a coefficient must be a finite number"),
        (lambda: ScalingVis(alpha=math.inf), "alpha: a coefficient must be a finite number"),
        (lambda: ScalingVis(alpha=-0.5), "alpha: .*got -0.5"),
        (lambda: ScalingVis(alpha="much"), "alpha: .*got 'much'"),
        (lambda: AdaptVis(alpha_low=0), "alpha_low: a coefficient must be above 0"),
        (lambda: AdaptVis(threshold=1.5), "threshold is a probability between 0 and 1, got 1.5"),
        (lambda: AdaptVis(threshold=math.nan), "threshold is a probability"),
        (lambda: AdaptVis(beta=1), "beta: is not a parameter"),
        (lambda: AdaptVis(compared="logit"), "compared: .*rounded_logit"),
        (lambda: ScalingVis(alpha=1, rows="all"), "rows: .*got 'all'"),
        (lambda: ScalingVis(alpha=1, layers=[]), "layers: an empty selection"),
        (lambda: ScalingVis(alpha=1, layers=[-1]), "layers: indices count from 0"),
        (lambda: ScalingVis(alpha=1, layers="3-1"), "layers: range '3-1' runs backwards"),
        (lambda: ScalingVis(alpha=1, layers="a"), "layers: 'a' is not a list of indices"),
        (lambda: ScalingVis(alpha=1, layers=[True, False, True]), "layers: .* got a mask"),
        (lambda: ScalingVis(alpha=1, heads=np.array([False, True])), "heads: .*flatnonzero"),
        (lambda: ScalingVis(alpha=1, images=torch.tensor([True])), "images: .* got a mask"),
        (lambda: ScalingVis(alpha=1, regions=[]), "regions is empty"),
        (
            lambda: ScalingVis(
                alpha=1, images=[0], regions=[Region(box=(0, 0, 1, 1), image_size=(2, 2))]
            ),
            "either images or regions",
        ),
        (lambda: Region(box=(0, 0, 5, 1), image_size=(4, 4)), "outside the image of 4 x 4"),
        (lambda: Region(box=(2, 0, 2, 1), image_size=(4, 4)), "is empty"),
        (lambda: Region(box=(math.nan, 0, 2, 1), image_size=(4, 4)), "not a finite number"),
        (lambda: NormRescale(target=0.0), "target: a norm must be a finite number above 0"),
        (lambda: NormRescale(target=None), "nothing would be rescaled"),
        (lambda: Amplify(directions="d", alpha=0, sha256="0" * 64), "above 0 and at most 100"),
        (lambda: Amplify(directions="d", alpha=101, sha256="0" * 64), "above 0 and at most 100"),
        (lambda: Amplify(directions="d", alpha=math.nan, sha256="0" * 64), "above 0 and at most"),
        (lambda: Amplify(directions="d", alpha=1, axes=[], sha256="0" * 64), "axes: an empty"),
        (lambda: Amplify(directions="missing", alpha=1), "directions: cannot read missing"),
        (lambda: Amplify(directions="d", alpha=1, sha256="12"), "has 64 hexadecimal digits"),
        (lambda: parse_config({"alpha": 1}), "needs a 'method'"),
        (lambda: parse_config({"method": "adaptviz"}), "did you mean 'adaptvis'"),
        (lambda: parse_config("{"), "not valid JSON"),
        (lambda: parse_config("[1]"), "must be a mapping"),
        (lambda: preset("adaptvis-vrs"), "did you mean 'adaptvis-vsr'"),
        (lambda: load_config("missing.yaml"), "Cannot read the configuration missing.yaml"),
    ],
)
def test_bad_values_are_refused_in_one_sentence(build, message):
    with pytest.raises(ConfigError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_published_presets_are_the_published_numbers():
    assert preset("adaptvis-controlled_b") == AdaptVis(threshold=0.35)
    assert preset("adaptvis-vg_two") == AdaptVis(alpha_high=2.0, threshold=0.2)
    assert preset("scalingvis-vsr") == ScalingVis(alpha=0.5)
    assert len(PRESETS) == 14 + 7


def test_presets_that_compare_as_the_authors_code_does():
    reference = {name: config for name, config in PRESETS.items() if name.endswith("-reference")}
    assert len(reference) == 7
    for name, config in reference.items():
        plain = preset(name.removesuffix("-reference"))
        compared = "rounded_logit" if "vsr" in name else "rounded_confidence"
        assert config == plain.model_copy(update={"compared": compared})


def test_configurations_without_the_rule_are_written_as_before():
    fields = {"method", "alpha_low", "alpha_high", "threshold", "rows"}
    assert AdaptVis().to_dict().keys() == fields
    assert preset("adaptvis-vsr-reference").to_dict().keys() == fields | {"compared"}


def test_presets_beside_a_model_are_read_and_a_broken_file_is_named(tmp_path):
    assert load_model_presets(tmp_path) == {}
    path = tmp_path / "adaptvis.json"
    path.write_text(json.dumps({"presets": {"scalingvis": ScalingVis(alpha=1.3).to_dict()}}))
    assert load_model_presets(tmp_path) == {"scalingvis": ScalingVis(alpha=1.3)}
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"adaptvis\.json must hold"):
        load_model_presets(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.yaml", "method: scalingvis\nalpha: 2\nalpha: 0.5\n"),
        ("mine.json", '{"method": "scalingvis", "alpha": 2, "alpha": 0.5}'),
        ("two.yaml", "presets: {a: {method: scalingvis, alpha: 2, alpha: 1}}\n"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match="'alpha' is given twice"):
        load_config(path)
    if path.suffix == ".json":
        with pytest.raises(ConfigError, match="'alpha' is given twice"):
            parse_config(text)
        (tmp_path / "adaptvis.json").write_text('{"presets": {"a": {}, "a": {}}}')
        with pytest.raises(ConfigError, match="presets"):
            load_model_presets(tmp_path)


def test_a_byte_order_mark_does_not_matter(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"method": "scalingvis", "alpha": 2}', encoding="utf-8-sig")
    assert load_config(path) == ScalingVis(alpha=2)


@pytest.mark.parametrize("key", ["[a]", "{a: 1}"])
def test_a_key_of_yaml_that_is_no_name_is_refused(tmp_path, key):
    path = tmp_path / "mine.yaml"
    path.write_text(f"method: scalingvis\n? {key}\n: 2\n")
    with pytest.raises(ConfigError, match="is not valid JSON or YAML"):
        load_config(path)


def test_merged_keys_of_yaml_may_be_overridden(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: &base {method: scalingvis, alpha: 2}\n"
        "presets: {a: {<<: *base, alpha: 3}, b: *base}\n"
    )
    assert load_config(path, "a") == ScalingVis(alpha=3)
    assert load_config(path, "b") == ScalingVis(alpha=2)


@pytest.mark.parametrize("truth", [True, False, np.True_])
def test_a_truth_value_is_not_a_number(truth):
    box = (0, 0, 4, 4)
    for build in (
        lambda: ScalingVis(alpha=truth),
        lambda: AdaptVis(alpha_low=truth),
        lambda: AdaptVis(alpha_high=truth),
        lambda: AdaptVis(threshold=truth),
        lambda: ScalingVis(alpha=2, layers=[truth]),
        lambda: ScalingVis(alpha=2, heads=(0, truth)),
        lambda: ScalingVis(alpha=2, images=[truth]),
        lambda: NormRescale(target=truth),
        lambda: NormRescale(clip=truth),
        lambda: Region(box=(truth, 0, 4, 4), image_size=(4, 4)),
        lambda: Region(box=box, image_size=(4, truth)),
        lambda: Region(box=box, image_size=(4, 4), image=truth),
    ):
        with pytest.raises(ConfigError, match=r"a number is expected|a mask of booleans"):
            build()


def test_numbers_that_clients_write_as_text_are_numbers():
    assert ScalingVis(alpha="1.5", layers=["1", 2.0]) == ScalingVis(alpha=1.5, layers=(1, 2))
    assert parse_config('{"method": "adaptvis", "threshold": "0.3"}') == AdaptVis(threshold=0.3)
