"""The RoPE probe against closed forms, and against the model run with shifted positions."""

import copy
import math

import numpy as np
import pytest
import torch
from diagnostics.helpers import TinyEngine, query
from hf.helpers import FAMILIES

from adaptvis.diagnostics.attention.capture import observe_prompt
from adaptvis.diagnostics.rope.rotation import inverse_frequencies, rotate
from adaptvis.diagnostics.rope.sensitivity import row_sensitivity, shift_sensitivity
from adaptvis.errors import UnsupportedError


def test_two_tokens_by_hand() -> None:
    """One image and one text token with equal logits; the image's logit rises by 0.4 in 2 steps."""
    logits = torch.zeros(1, 2, dtype=torch.float64)
    shifted = torch.tensor([[0.4, 0.0]], dtype=torch.float64)
    found = row_sensitivity(logits, shifted, torch.tensor([True, False]), steps=2.0)
    assert found.share.item() == pytest.approx(0.5)
    assert found.change.item() == pytest.approx(1 / (1 + math.exp(-0.4)) - 0.5)
    assert found.gradient.item() == pytest.approx(0.2)
    assert found.predicted.item() == pytest.approx(0.5 * 0.5 * 0.2 * 2)


def test_gradient_weighs_image_tokens_by_their_attention() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0, math.log(4.0)]], dtype=torch.float64)
    shifted = logits + torch.tensor([[0.1, -0.2, 0.0]])
    found = row_sensitivity(logits, shifted, torch.tensor([True, True, False]), steps=1.0)
    assert found.share.item() == pytest.approx(0.5)
    assert found.gradient.item() == pytest.approx(0.75 * 0.1 - 0.25 * 0.2)


def test_prediction_is_the_derivative() -> None:
    """For small steps, delta alpha_V / steps and alpha_V (1 - alpha_V) delta g_V agree."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    slope = torch.randn(4, 9, generator=generator, dtype=torch.float64)
    image = torch.arange(9) < 5
    slope[:, ~image] = 0
    found = row_sensitivity(logits, logits + 1e-6 * slope, image, steps=1e-6)
    torch.testing.assert_close(found.change / 1e-6, found.predicted / 1e-6, atol=1e-6, rtol=0)


def test_a_row_that_sees_no_image() -> None:
    lowest = torch.finfo(torch.float64).min
    logits = torch.tensor([[lowest, lowest, 1.0]], dtype=torch.float64)
    found = row_sensitivity(logits, logits, torch.tensor([True, True, False]), steps=1.0)
    assert found.share.item() == found.change.item() == found.predicted.item() == 0
    assert math.isnan(found.gradient.item())


def test_rotation_of_one_pair_by_hand() -> None:
    keys = torch.tensor([1.0, 5.0, 0.0, 7.0, 9.0], dtype=torch.float64)
    turned = rotate(keys, torch.tensor([math.pi / 2, 0.0], dtype=torch.float64))
    # (1, 0) becomes (0, 1); the pair with angle 0 and what is behind the pairs stay.
    np.testing.assert_allclose(turned, [0, 5, 1, 7, 9], atol=1e-12)


def _shifted_by_the_model(engine, inputs, steps):
    """Last-row weights [L, H, N] before and after, by the model's own layers in float64.

    Every layer gets the hidden states of the ordinary run, and position embeddings in which the
    image stands ``steps`` further; its attention makes the whole matrix.
    """
    decoder = engine.family.decoder_of(engine.model)
    image = inputs["input_ids"] == engine.model.config.image_token_id
    calls = []

    def keep(module, args, kwargs):
        calls.append((module, args, dict(kwargs)))

    seen = {}

    def keep_decoder(module, args, kwargs):
        seen["positions"] = kwargs.get("position_ids")

    attentions = [layer.self_attn for layer in decoder.layers]
    hooks = [a.register_forward_pre_hook(keep, with_kwargs=True) for a in attentions]
    hooks.append(decoder.register_forward_pre_hook(keep_decoder, with_kwargs=True))
    try:
        engine.model(**inputs, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    positions = seen["positions"]
    if positions is None:
        positions = torch.arange(image.shape[1])[None]
    weights = {0.0: [], steps: []}
    for by in weights:
        moved = positions + by * image.to(torch.float64)
        if moved.dim() == 3 and len(moved) == 4:
            # Text positions for the mask come first, then time, height and width.
            moved = moved[1:]
        for module, args, kwargs in calls:
            hidden = kwargs.get("hidden_states", args[0] if args else None)
            kind = getattr(module, "layer_type", None)
            rotary = decoder.rotary_emb
            separate = hasattr(rotary, f"{kind}_inv_freq")
            embeddings = rotary(hidden, moved, kind) if separate else rotary(hidden, moved)
            options = {**kwargs, "hidden_states": hidden, "position_embeddings": embeddings}
            options.pop("past_key_values", None)
            _, matrix = module(**options)
            weights[by].append(matrix[0, :, -1])
    return torch.stack(weights[0.0]), torch.stack(weights[steps]), image[0]


@pytest.mark.parametrize("steps", [1.0, -3.0])
@pytest.mark.parametrize("family", [*FAMILIES, "adaptvis_llava"])
@torch.no_grad()
def test_probe_equals_the_model_with_shifted_positions(family, steps) -> None:
    built = TinyEngine(family)
    engine = TinyEngine(family, copy.deepcopy(built.model).double())
    inputs = engine.encode([query()])
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    decoder = engine.family.decoder_of(engine.model)
    image = inputs["input_ids"][0] == engine.model.config.image_token_id
    found = {}

    def probe(attention) -> None:
        frequencies = inverse_frequencies(decoder, attention.module)
        found[attention.layer] = shift_sensitivity(attention, image, frequencies, steps)

    observe_prompt(engine, inputs, probe)
    for module in decoder.modules():
        if hasattr(module, "layer_idx") and hasattr(module, "config"):
            module.config._attn_implementation = "eager"
    decoder.config._attn_implementation = "eager"
    before, after, columns = _shifted_by_the_model(engine, inputs, steps)
    share, moved = before[:, :, columns].sum(-1), after[:, :, columns].sum(-1)
    # Transformers computes its cosines in float32.
    for layer in range(len(before)):
        torch.testing.assert_close(found[layer].share, share[layer], atol=1e-6, rtol=0)
        change = moved[layer] - share[layer]
        torch.testing.assert_close(found[layer].change, change, atol=1e-6, rtol=0)
        # Logits up to a constant per row are logarithms of weights; text is not moved.
        text = ~columns & (before[layer, 0] > 0)
        seen = columns & (before[layer, 0] > 0)
        if not bool(seen.any()):
            assert bool(found[layer].gradient.isnan().all())
            continue
        constant = (after[layer][:, text].log() - before[layer][:, text].log()).mean(-1)
        rise = after[layer][:, seen].log() - before[layer][:, seen].log() - constant[:, None]
        part = before[layer][:, seen] / share[layer][:, None]
        gradient = (part * rise).sum(-1) / steps
        torch.testing.assert_close(found[layer].gradient, gradient, atol=1e-5, rtol=0)
        predicted = share[layer] * (1 - share[layer]) * gradient * steps
        torch.testing.assert_close(found[layer].predicted, predicted, atol=1e-5, rtol=0)
    assert max(float(f.change.abs().max()) for f in found.values()) > 1e-4


def test_other_rotary_embeddings_are_refused() -> None:
    engine = TinyEngine("llava")
    decoder = engine.family.decoder_of(engine.model)

    class Without(torch.nn.Module):
        rotary_emb = None

    with pytest.raises(UnsupportedError, match="no rotary position embedding"):
        inverse_frequencies(Without(), decoder.layers[0].self_attn)
    # torch.nn has no rotate_half beside its modules.
    with pytest.raises(UnsupportedError, match="half-split"):
        inverse_frequencies(decoder, torch.nn.Linear(2, 2))
