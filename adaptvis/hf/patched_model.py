"""A model under steering: the method hooks, and which pass each decoder call needs.

Three methods of the instance are hooked: ``generate`` and ``forward`` of the model say what the
prompt is, ``forward`` of its text decoder is where steering happens, and ``get_image_features`` is
where image-token norms are rescaled.
"""

from __future__ import annotations

import inspect
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from adaptvis.config import AdaptVis, NormRescale, ScalingVis
from adaptvis.errors import AdaptVisWarning, PromptError, UnsupportedError
from adaptvis.hf.cache import sequence_length
from adaptvis.hf.decisions import DecisionBatch
from adaptvis.hf.decoder_pass import DecoderCall, PromptPlan, run_prompt, run_steered
from adaptvis.hf.families import family_for
from adaptvis.hf.hooks import MethodHook
from adaptvis.hf.norms import rescale_features, text_embedding_norms
from adaptvis.hf.prompts import Generation, PromptState, expand_prompts, join_ids
from adaptvis.hf.selection import select_image_tokens
from adaptvis.steering.spans import steered_rows

__all__ = ["PatchedModel", "Steering"]

_NO_IMAGE = "the prompt has no image tokens"
_NOT_SELECTED = "the selected images or regions are not in the prompt"


class Steering(Protocol):
    """What a handle offers to the hooks."""

    attention: ScalingVis | AdaptVis | None
    norms: NormRescale | None
    processor: Any

    def record(self, decisions: DecisionBatch) -> None:
        """Keep the decisions of the latest prefill."""


@dataclass
class _ForwardCall:
    """The model's forward call around a decoder call."""

    steering: Steering
    attention: ScalingVis | AdaptVis
    input_ids: Tensor | None
    padding_mask: Tensor | None
    generation: Generation | None


class PatchedModel:
    """The hooks on one model; ``attention`` and ``norms`` say which handle is in force."""

    def __init__(
        self,
        model: nn.Module,
        attention: Callable[[], Steering | None],
        norms: Callable[[], Steering | None],
    ) -> None:
        self.config: Any = model.config
        self.family = family_for(self.config)
        self.image_token_id = self.family.placeholder_of(self.config)
        self._attention = attention
        self._norms = norms
        self._lock = threading.RLock()
        self._local = threading.local()
        self._states: weakref.WeakKeyDictionary[Cache, PromptState] = weakref.WeakKeyDictionary()
        self._text_norms: Tensor | None = None

        decoder = self.family.decoder_of(model)
        self.decoder_config: Any = decoder.config
        self._embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        self._head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
        self._attention_configs = _attention_configs(decoder)
        signature = inspect.signature(model.forward)
        self._forward_names = tuple(signature.parameters)
        self._decoder_names = tuple(inspect.signature(decoder.forward).parameters)

        self._hooks: list[MethodHook] = []
        try:
            for module, name, wrapper in (
                (model, "forward", self._model_forward),
                (model, "generate", self._generate),
                (decoder, "forward", self._decoder_forward),
                (self.family.features_of(model), "get_image_features", self._get_image_features),
            ):
                if hasattr(module, name):
                    self._hooks.append(MethodHook(module, name, wrapper))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take the hooks off, in the opposite order."""
        while self._hooks:
            self._hooks[-1].remove()
            self._hooks.pop()

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        steering = self._attention()
        if steering is None:
            return original(*args, **kwargs)
        prompt_ids = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        if not isinstance(prompt_ids, Tensor):
            raise PromptError(
                "Steering finds image tokens in input_ids, and generate was called without them; "
                "pass input_ids (inputs_embeds alone do not say where the image is)"
            )
        mask = kwargs.get("attention_mask")
        length = mask.shape[1] if isinstance(mask, Tensor) and mask.dim() == 2 else 0
        outer = getattr(self._local, "generation", None)
        self._local.generation = Generation(prompt_ids, max(length, prompt_ids.shape[1]))
        try:
            return original(*args, **kwargs)
        finally:
            self._local.generation = outer

    def _model_forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            steering = self._attention()
            generation: Generation | None = getattr(self._local, "generation", None)
            if steering is None or steering.attention is None:
                return original(*args, **kwargs)
            if generation is None:
                self._local.feature_lengths = None
            elif generation.finished and steering.attention.rows != "generated":
                return original(*args, **kwargs)
            named = {**dict(zip(self._forward_names, args, strict=False)), **kwargs}
            if named.get("labels") is not None:
                raise UnsupportedError(
                    "Steering acts at inference and labels ask for a training loss; call "
                    "adaptvis.unpatch(model) before training, or leave labels out"
                )
            self._local.call = _ForwardCall(
                steering,
                steering.attention,
                named.get("input_ids"),
                named.get("attention_mask"),
                generation,
            )
            try:
                return original(*args, **kwargs)
            finally:
                self._local.call = None

    def _get_image_features(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        self._local.feature_lengths = _lengths(getattr(outputs, "pooler_output", None))
        steering = self._norms()
        if steering is None or steering.norms is None:
            return outputs
        if self._text_norms is None:
            self._text_norms = text_embedding_norms(self._embedding)
        return rescale_features(outputs, steering.norms, self._text_norms)

    def _decoder_forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call: _ForwardCall | None = getattr(self._local, "call", None)
        if call is None:
            return original(*args, **kwargs)
        kwargs = {**dict(zip(self._decoder_names, args, strict=False)), **kwargs}
        decoder_call = DecoderCall(original, kwargs, self._head, self._attention_configs)
        return self._steer(call, decoder_call)

    def _steer(self, call: _ForwardCall, decoder_call: DecoderCall) -> Any:
        cache, length = decoder_call.cache, decoder_call.length
        cached = sequence_length(cache)
        end = cached + length
        generation = call.generation
        state = self._states.get(cache) if cache is not None else None
        if state is None and generation is not None:
            state = generation.state
        ids = self._ids_seen(call, state, cached, decoder_call)

        if generation is not None:
            prompt_length = generation.prompt_length
        elif length > 1 or cached == 0:
            prompt_length = end
        else:
            prompt_length = cached if state is None else state.prompt_length or cached

        steering = call.attention
        if cached >= prompt_length:
            if state is not None:
                state.ids = ids
            if steering.rows == "generated" and state is not None and state.alpha is not None:
                return self._steer_decoded(decoder_call, state, steering, end)
            return decoder_call.forward(**decoder_call.kwargs)

        if end < prompt_length:
            self._refuse_chunk(steering, ids)
            if cache is not None:
                self._states[cache] = PromptState(ids)
            return decoder_call.forward(**decoder_call.kwargs)

        if cache is None and state is not None and state.alpha is not None:
            plan = self._plan(call, ids, cached, length, prompt_length)
            if all(plan.reasons):
                return decoder_call.forward(**decoder_call.kwargs)
            return run_steered(decoder_call.tail(0), plan, expand_prompts(state.alpha, len(ids)))

        plan = self._plan(call, ids, cached, length, prompt_length)
        output, decisions = run_prompt(decoder_call, plan)
        state = PromptState(ids, prompt_length, plan.columns, decisions.alpha, plan.reasons)
        if output.past_key_values is not None:
            self._states[output.past_key_values] = state
        rows_per_prompt = 1
        if generation is not None:
            generation.state = state
            generation.finished = output.past_key_values is not None
            rows_per_prompt = max(len(ids) // len(generation.prompt_ids), 1)
        self._report(call.steering, decisions, rows_per_prompt)
        return output

    def _ids_seen(
        self, call: _ForwardCall, state: PromptState | None, cached: int, decoder_call: DecoderCall
    ) -> Tensor:
        length = decoder_call.length
        new = call.input_ids
        if new is None or new.shape[1] != length:
            raise PromptError(
                "Steering finds image tokens in input_ids, and this forward call "
                + ("has none" if new is None else f"has {new.shape[1]} for {length} positions")
                + "; pass input_ids with one placeholder per image token"
            )
        known = None if state is None else state.ids
        generation = call.generation
        if generation is not None and generation.prompt_ids.shape[1] >= cached:
            known = generation.prompt_ids
        return join_ids(known, cached, new)

    def _plan(
        self, call: _ForwardCall, ids: Tensor, cached: int, length: int, prompt_length: int
    ) -> PromptPlan:
        steering = call.attention
        image_tokens = ids == self.image_token_id
        image_tokens[:, prompt_length:] = False
        columns = select_image_tokens(
            steering,
            ids,
            image_tokens,
            family=self.family,
            config=self.config,
            processor=call.steering.processor,
            feature_lengths=self._feature_lengths(call, len(ids)),
        )
        padding = None
        mask = call.padding_mask
        if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= ids.shape[1]:
            padding = mask[:, : ids.shape[1]] == 0
        rows = steered_rows(steering.rows, image_tokens, prompt_length, padding)[:, cached:]
        any_image = image_tokens.any(dim=1).tolist()
        any_column = (columns.any(dim=1) & rows.any(dim=1)).tolist()
        reasons = tuple(
            "" if selected else (_NOT_SELECTED if image else _NO_IMAGE)
            for image, selected in zip(any_image, any_column, strict=True)
        )
        return PromptPlan(steering, columns, rows, prompt_length - 1 - cached, reasons)

    def _feature_lengths(self, call: _ForwardCall, rows: int) -> list[int] | None:
        lengths: list[int] | None = getattr(self._local, "feature_lengths", None)
        if lengths is None or call.generation is None:
            return lengths
        # The encoder runs before the batch is repeated for beams.
        prompts = len(call.generation.prompt_ids)
        tokens = (call.generation.prompt_ids == self.image_token_id).sum(dim=1).tolist()
        remaining, repeated = list(lengths), []
        for total in tokens:
            own: list[int] = []
            while remaining and sum(own) < total:
                own.append(remaining.pop(0))
            repeated.extend(own * (rows // prompts))
        return repeated

    def _steer_decoded(
        self, call: DecoderCall, state: PromptState, steering: ScalingVis | AdaptVis, end: int
    ) -> Any:
        rows = call.kwargs["inputs_embeds"].shape[0]
        if state.columns is None or state.alpha is None or all(state.reasons):
            return call.forward(**call.kwargs)
        columns = expand_prompts(state.columns, rows)
        columns = nn.functional.pad(columns, (0, end - columns.shape[1]))
        steered = torch.ones((rows, call.length), dtype=torch.bool, device=columns.device)
        plan = PromptPlan(steering, columns, steered, 0, state.reasons)
        return run_steered(call.tail(0), plan, expand_prompts(state.alpha, rows))

    def _refuse_chunk(self, steering: ScalingVis | AdaptVis, ids: Tensor) -> None:
        if steering.rows == "text_after_image" and bool((ids == self.image_token_id).any()):
            raise UnsupportedError(
                "rows='text_after_image' needs the prompt from its first image on in one forward "
                "call; turn chunked prefill off or use rows='last_prompt_token'"
            )

    @staticmethod
    def _report(steering: Steering, decisions: DecisionBatch, rows_per_prompt: int) -> None:
        decisions = DecisionBatch(
            decisions.confidence, decisions.alpha, decisions.reasons, rows_per_prompt
        )
        steering.record(decisions)
        reasons = decisions.reasons[::rows_per_prompt]
        skipped = sorted({reason for reason in reasons if reason})
        if skipped:
            count = sum(bool(reason) for reason in reasons)
            warnings.warn(
                f"{count} of {len(reasons)} prompts were not steered: {'; '.join(skipped)}",
                AdaptVisWarning,
                stacklevel=2,
            )


def _attention_configs(decoder: nn.Module) -> list[Any]:
    """The configurations from which the decoder's layers read their attention implementation."""
    configs: dict[int, Any] = {id(decoder.config): decoder.config}
    for module in decoder.modules():
        if hasattr(module, "layer_idx") and hasattr(module, "config"):
            configs[id(module.config)] = module.config
    return list(configs.values())


def _lengths(features: Any) -> list[int] | None:
    """Tokens per image, where the encoder returns one entry per image."""
    if isinstance(features, Tensor):
        return [features.shape[1]] * len(features) if features.dim() == 3 else None
    if isinstance(features, list | tuple):
        return [len(feature) for feature in features]
    return None
