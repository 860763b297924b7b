"""Maps of the last prompt token's attention against full eager attention matrices."""

import numpy as np
import pytest
import torch
from hf.eager_reference import NAME, Spec, reference
from hf.helpers import FAMILIES, Case, image
from hf.tiny_families import HIDDEN, encode

from adaptvis.config import AdaptVis, Amplify, NormRescale, ScalingVis
from adaptvis.engine import Query
from adaptvis.errors import PromptError
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.image_attention import image_attention
from adaptvis.hf.patch import steer
from adaptvis.steering.directions import write_directions


class Encoded(HFEngine):
    """An engine whose prompts are encoded as the tiny families' tests do."""

    def __init__(self, family: str) -> None:
        self.case = Case(family, ["where is the cat"], [[image(0)]])
        super().__init__(self.case.model, self.case.processor, family)

    def encode(self, queries):
        (query,) = queries
        return dict(encode(self.case.family, self.processor, [query.prompt], [list(query.images)]))


def expected(engine, inputs, alpha=None, **options):
    """Mean weights over heads, [layers, T], by full eager attention of the whole prompt."""
    case = engine.case
    columns = inputs["input_ids"] == engine.model.config.image_token_id
    rows = torch.zeros_like(columns)
    rows[:, -1] = True
    spec = None
    if alpha is not None:
        spec = Spec(rows, columns, torch.tensor([alpha]), **options)
    weights = []

    def keep(module, args, output):
        if hasattr(module, "layer_idx") and isinstance(output, tuple) and output[1] is not None:
            weights.append(output[1][0, :, -1].float().mean(dim=0))

    hooks = [module.register_forward_hook(keep) for module in case.decoder.modules()]
    try:
        with torch.no_grad(), reference(case.decoder, spec):
            assert case.decoder.config._attn_implementation == NAME
            engine.model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    length = columns.shape[1]
    full = [torch.nn.functional.pad(w, (length - len(w), 0)) for w in weights]
    return torch.stack([w[columns[0]] for w in full]).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_maps_equal_full_attention(family) -> None:
    engine = Encoded(family)
    query = Query("where is the cat", (image(0),))
    inputs = engine.encode([query])
    found = image_attention(engine, query, ScalingVis(alpha=3))
    np.testing.assert_allclose(found.unsteered, expected(engine, inputs), atol=1e-5)
    np.testing.assert_allclose(found.steered, expected(engine, inputs, 3.0), atol=1e-5)
    assert not np.allclose(found.unsteered, found.steered, atol=1e-4)
    assert found.boxes.shape == (found.unsteered.shape[1], 4)
    inside = found.boxes[~np.isnan(found.boxes).any(axis=1)]
    assert len(inside)
    assert inside.min() >= -1e-9
    assert inside.max() <= 1 + 1e-9


def test_chosen_layers_and_heads() -> None:
    engine = Encoded("llava")
    query = Query("where is the cat", (image(0),))
    inputs = engine.encode([query])
    found = image_attention(engine, query, ScalingVis(alpha=5, layers=(1,), heads=(0, 2)))
    wanted = expected(engine, inputs, 5.0, layers=(1,), heads=(0, 2))
    np.testing.assert_allclose(found.steered, wanted, atol=1e-5)
    np.testing.assert_allclose(found.steered[0], found.unsteered[0], atol=1e-6)


def test_nothing_is_steered_where_alpha_is_1_or_steering_is_off() -> None:
    engine = Encoded("llava")
    query = Query("where is the cat", (image(0),))
    for config in (
        None,
        ScalingVis(alpha=1),
        AdaptVis(alpha_low=2, alpha_high=1, threshold=0),
        ScalingVis(alpha=2, images=(3,)),
    ):
        found = image_attention(engine, query, config)
        np.testing.assert_allclose(found.steered, found.unsteered, atol=1e-7)
    rescaled = image_attention(engine, query, NormRescale(target=30.0))
    assert not np.allclose(rescaled.steered, rescaled.unsteered, atol=1e-4)
    assert "forward" not in engine.model.__dict__


def test_amplified_and_patched_models_are_mapped_as_they_are(tmp_path) -> None:
    engine = Encoded("llava")
    query = Query("where is the cat", (image(0),))
    inputs = engine.encode([query])
    plain = expected(engine, inputs)
    vectors = {"horizontal": torch.arange(float(HIDDEN)), "vertical": torch.ones(HIDDEN)}
    path = write_directions(tmp_path / "directions.safetensors", vectors, {})
    config = Amplify(directions=path, alpha=6.0)
    with steer(engine.model, config):
        amplified = expected(engine, inputs)
        patched = image_attention(engine, query)
    for found in (image_attention(engine, query, config), patched):
        np.testing.assert_allclose(found.unsteered, plain, atol=1e-5)
        np.testing.assert_allclose(found.steered, amplified, atol=1e-5)
    assert not np.allclose(plain, amplified, atol=1e-4)
    with steer(engine.model, ScalingVis(alpha=3)):
        patched = image_attention(engine, query)
    np.testing.assert_allclose(patched.unsteered, plain, atol=1e-5)
    np.testing.assert_allclose(patched.steered, expected(engine, inputs, 3.0), atol=1e-5)


def test_a_prompt_without_an_image_is_refused() -> None:
    with pytest.raises(PromptError, match="without an image"):
        image_attention(Encoded("llava"), Query("where"), None)
