"""Files of directions: what is written is read, and nothing else is."""

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from adaptvis import Amplify
from adaptvis.errors import ConfigError
from adaptvis.steering.amplification import amplify_directions
from adaptvis.steering.directions import (
    control_directions,
    directions_of,
    read_directions,
    write_directions,
)


@pytest.fixture
def path(tmp_path):
    vectors = {"vertical": torch.tensor([0.0, 3.0, 4.0]), "horizontal": torch.tensor([2.0, 0, 0])}
    return write_directions(tmp_path / "own.safetensors", vectors, {"model": "tiny"})


def test_what_is_written_is_read_back_with_its_metadata(path, tmp_path):
    vectors = read_directions(path)
    assert list(vectors) == ["horizontal", "vertical"]
    assert vectors["vertical"].tolist() == [0, 3, 4]
    with safe_open(path, "pt") as stored:
        assert json.loads(stored.metadata()["adaptvis"]) == {"model": "tiny"}
    again = write_directions(tmp_path / "again.safetensors", vectors, {"model": "tiny"})
    assert again.read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "own.safetensors"]


def test_a_configuration_means_the_same_directions_wherever_it_is_read(path):
    config = Amplify(directions=path, alpha=2.0, axes="vertical")
    assert directions_of(config).tolist() == [[0, 3, 4]]
    assert directions_of(Amplify(directions=path, alpha=1)).tolist() == [[2, 0, 0], [0, 3, 4]]
    write_directions(path, {"vertical": torch.ones(3)}, {})
    with pytest.raises(ConfigError, match="has changed since the configuration was made"):
        directions_of(config)


def test_controls_have_the_same_axes_and_norms_and_depend_on_the_seed(path):
    control = control_directions(path, seed=3)
    assert control.name == "own-random-3.safetensors"
    drawn = read_directions(control)
    assert list(drawn) == ["horizontal", "vertical"]
    assert [v.norm().item() for v in drawn.values()] == pytest.approx([2.0, 5.0])
    first = control.read_bytes()
    assert control_directions(path, seed=3).read_bytes() == first
    assert control_directions(path, seed=4).read_bytes() != first


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({}, "it has none"),
        ({"a": torch.ones(2), "b": torch.ones(3)}, "it has a "),
        ({"a": torch.ones(2, 2)}, "one vector per axis"),
        ({"a": torch.tensor([1.0, math.nan])}, "'a' of .* is zero or not finite"),
        ({"a": torch.zeros(2)}, "'a' of .* is zero or not finite"),
    ],
)
def test_files_that_hold_no_directions_are_refused(tmp_path, vectors, message):
    path = tmp_path / "other.safetensors"
    save_file(vectors, path)
    with pytest.raises(ConfigError, match=message):
        read_directions(path)


def test_other_refusals_say_what_to_do(path, tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'vertical'"):
        directions_of(Amplify(directions=path, alpha=1, axes=["verticl"]))
    with pytest.raises(ConfigError, match="have 7; fit directions for it"):
        directions_of(Amplify(directions=path, alpha=1), width=7)
    with pytest.raises(ConfigError, match="Cannot read the directions"):
        read_directions(tmp_path / "missing.safetensors")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        read_directions(tmp_path / "text")


def test_the_component_along_a_direction_is_multiplied_by_one_plus_alpha():
    # By hand: w = (3, 4), h = (5, 10); h.w / |w|^2 = 55 / 25 = 2.2, so 2 * 2.2 * w = (13.2, 17.6).
    result = amplify_directions(torch.tensor([[5.0, 10.0]]), torch.tensor([[3.0, 4.0]]), 2.0)
    torch.testing.assert_close(result, torch.tensor([[18.2, 27.6]]))
    # Directions that are not orthogonal: each component is taken from the h that came in.
    pair = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    result = amplify_directions(torch.tensor([[1.0, 3.0]]), pair, 1.0)
    torch.testing.assert_close(result, torch.tensor([[1 + 1 + 2.0, 3 + 2.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_formula_is_computed_in_float32_whatever_the_type(dtype):
    torch.manual_seed(0)
    h, w = torch.randn(4, 5, 16).to(dtype), torch.randn(3, 16)
    result = amplify_directions(h, w, 7.0)
    assert result.dtype == dtype
    expected = h.double()
    for row in w.double():
        c = (h.double() * row).sum(-1, keepdim=True) / (row @ row + 1e-8)
        expected = expected + 7.0 * c * row
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype != torch.float32 else {}
    torch.testing.assert_close(result, expected.to(dtype), **tolerance)
