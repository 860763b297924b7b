"""The RoPE probe over many questions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from adaptvis.config import TOKEN_METHODS, SteeringConfig
from adaptvis.diagnostics.attention.capture import observe_prompt
from adaptvis.diagnostics.clustered import clustered_mean
from adaptvis.diagnostics.prefill import Progress, silent
from adaptvis.diagnostics.rope.result import SMALL_STEP, RopeResult
from adaptvis.diagnostics.rope.rotation import inverse_frequencies
from adaptvis.diagnostics.rope.sensitivity import Sensitivity, shift_sensitivity
from adaptvis.engine import Query
from adaptvis.errors import ConfigError, DataError, PromptError
from adaptvis.hf.active import steered_on_top, steering_record, steering_under
from adaptvis.hf.engine import HFEngine
from adaptvis.hf.observation import LayerAttention
from adaptvis.tasks import Sample

__all__ = ["measure_rope", "probe_prompt"]


def probe_prompt(engine: HFEngine, query: Query, *, steps: float = 1.0) -> list[Sensitivity]:
    """Each layer's sensitivity at the last prompt row of one prompt, first layer first.

    Only that row's logits are computed, twice: 16 * H * N bytes, and the keys of one key head at a
    time are brought to float64.

    Raises:
        PromptError: the prompt has no image.
        UnsupportedError: the model has no half-split rotary embedding.
    """
    return _probe(engine, query, (steps,))[0]


def _probe(engine: HFEngine, query: Query, steps: Sequence[float]) -> list[list[Sensitivity]]:
    """:func:`probe_prompt` at several steps, one after the other, in one pass."""
    inputs = engine.encode([query])
    placeholder = engine.family.placeholder_of(engine.model.config)
    image = inputs["input_ids"][0] == placeholder
    if not bool(image.any()):
        raise PromptError("A prompt without an image has no attention on one; leave it out")
    decoder = engine.family.decoder_of(engine.model)
    found: dict[int, list[Sensitivity]] = {}

    def probe(attention: LayerAttention) -> None:
        frequencies = inverse_frequencies(decoder, attention.module)
        layers = (shift_sensitivity(attention, image, frequencies, one) for one in steps)
        found[attention.layer] = [Sensitivity(*(field.cpu() for field in one)) for one in layers]

    observe_prompt(engine, inputs, probe)
    return [[found[layer][i] for layer in sorted(found)] for i in range(len(steps))]


def measure_rope(
    engine: HFEngine,
    samples: Sequence[Sample],
    *,
    steps: float = 1.0,
    config: SteeringConfig | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> RopeResult:
    """delta alpha_V and delta g_V per layer and head, averaged over questions.

    Questions without an image are left out, and counted in ``settings``. The first-order theory is
    measured at a small step, too, of at most 0.05 positions the same way.

    Args:
        steps: positions by which the image's keys are moved; the papers move them by one.
        config: a NormRescale or Amplify under which to look, on top of what the model is patched
            with; coefficients on logits are not of this probe, and a patch's are left out.

    Raises:
        ConfigError: steps is 0 or no number, or the configuration steers attention.
        DataError: no question has an image. UnsupportedError: see :func:`probe_prompt`.
    """
    if not np.isfinite(steps) or steps == 0:
        raise ConfigError(f"steps must be a number of positions other than 0, got {steps}")
    if config is not None and not isinstance(config, TOKEN_METHODS):
        raise ConfigError(
            f"The RoPE probe looks at the model's own logits, and {config.method} multiplies them; "
            "leave it out, or give a NormRescale or an Amplify"
        )
    active = steering_under(engine.model, config)
    acting = tuple(one for one in active if isinstance(one, TOKEN_METHODS))
    ignored = tuple(one for one in active if one not in acting)
    if not samples:
        raise DataError("There is no question to look at; give a task with some")
    # The theory is of first order: it is judged at a small step, whatever step is shown.
    judged = float(np.copysign(min(abs(steps), SMALL_STEP), steps))
    values: list[Any] = []
    images: list[str] = []
    for number, sample in enumerate(samples):
        progress("rope", number + 1, len(samples))
        query = sample.query()
        if not query.images:
            continue
        with steered_on_top(engine.model, config, engine.processor):
            shown, small = _probe(engine, query, (steps, judged))
        fields = (
            torch.stack(f).numpy() for layers in (shown, small) for f in zip(*layers, strict=True)
        )
        values.append(np.stack([*fields]))  # [8, L, H]
        images.append(sample.image_id)
    if not values:
        raise DataError(f"None of the {len(samples)} questions has an image; give a task with some")
    found = np.stack(values)
    share, change, gradient, predicted, _, small_change, _, small_predicted = (
        clustered_mean(found[:, i], images) for i in range(8)
    )
    found = found[:, :4]
    with warnings.catch_warnings():
        # A prompt in which no head sees the image.
        warnings.simplefilter("ignore", RuntimeWarning)
        overall = np.nanmean(np.abs(found), axis=(2, 3))
    return RopeResult(
        engine=engine.describe(),
        settings={
            **(settings or {}),
            "questions": len(images),
            "images": len(set(images)),
            "questions without an image": len(samples) - len(images),
            "steering": steering_record(acting),
            **({"steering left out": steering_record(ignored)} if ignored else {}),
            "steps": steps,
        },
        steps=steps,
        questions=len(images),
        images=len(set(images)),
        share=share,
        change=change,
        gradient=gradient,
        predicted=predicted,
        judged_steps=judged,
        judged_change=small_change,
        judged_prediction=small_predicted,
        overall_change=clustered_mean(overall[:, 1], images),
        overall_gradient=clustered_mean(overall[:, 2], images),
    )
