"""A model under steering: the method hooks, and which pass each decoder call needs.

Methods of the instance are hooked: ``generate`` and ``forward`` of the model say what the
prompt is, ``forward`` of its text decoder is where steering happens, and ``get_image_features`` is
where image-token norms are rescaled and then directions amplified.
"""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from adaptvis.config import AdaptVis, Amplify, ScalingVis
from adaptvis.errors import AdaptVisWarning, PromptError, UnknownFamilyError, UnsupportedError
from adaptvis.hf.amplification import Amplification
from adaptvis.hf.cache import sequence_length
from adaptvis.hf.decisions import DecisionBatch
from adaptvis.hf.decoder_pass import DecoderCall, PromptPlan, run_prompt, run_steered
from adaptvis.hf.families import family_for
from adaptvis.hf.hooks import MethodHook
from adaptvis.hf.norms import rescale_features, table_version, text_embedding_norms
from adaptvis.hf.planning import ForwardCall, Planner, Steering
from adaptvis.hf.prompts import Generation, PromptState, expand_prompts

__all__ = ["PatchedModel", "attention_configs", "feature_lengths"]


class PatchedModel:
    """The hooks on one model; each argument says which handle is in force."""

    def __init__(
        self,
        model: nn.Module,
        attention: Callable[[], Steering | None],
        norms: Callable[[], Steering | None],
        amplification: Callable[[], Steering | None],
    ) -> None:
        config: Any = model.config
        family = family_for(config)
        self.planner = Planner(family, config, family.placeholder_of(config))
        self._attention = attention
        self._norms = norms
        self._amplification = amplification
        self._lock = threading.RLock()
        self._local = threading.local()
        self._states: weakref.WeakKeyDictionary[Cache, PromptState] = weakref.WeakKeyDictionary()
        self._text_norms: tuple[tuple[int, int] | None, Tensor] | None = None
        self._model: Callable[[], Any] = weakref.ref(model)

        decoder = family.decoder_of(model)
        self.decoder_config: Any = decoder.config
        self._attention_configs = attention_configs(decoder)
        signature = inspect.signature(model.forward)
        self._forward_names = tuple(signature.parameters)
        self._decoder_names = tuple(inspect.signature(decoder.forward).parameters)

        self._hooks: list[MethodHook] = []
        try:
            for module, name, wrapper in (
                (model, "forward", self._model_forward),
                (model, "generate", self._generate),
                (decoder, "forward", self._decoder_forward),
                (family.features_of(model), "get_image_features", self._get_image_features),
                (family.features_of(model), "get_video_features", self._get_video_features),
            ):
                if hasattr(module, name):
                    self._hooks.append(MethodHook(module, name, wrapper))
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Take all hooks off, or none and raise UnsupportedError."""
        for hook in self._hooks:
            hook.check_removable()
        while self._hooks:
            self._hooks[-1].remove()
            self._hooks.pop()

    def require_features(self) -> None:
        """Raises UnknownFamilyError if the family's image tokens cannot be edited."""
        features: Any = self.planner.family.features_of(self._model())
        if not hasattr(features, "get_image_features"):
            raise UnknownFamilyError(
                f"A {type(features).__name__} has no get_image_features, so image tokens cannot be "
                "edited; name the module that has it in "
                "adaptvis.hf.register_family(Family(..., features=...))"
            )

    def amplification_of(self, config: Amplify) -> Amplification:
        """The directions of a configuration, on this model's device.

        Raises:
            ConfigError: they cannot be read, or are of another width.
        """
        table: Any = self._model().get_input_embeddings().weight
        return Amplification.load(config, table.shape[1], table.device)

    def _generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        steering = self._attention()
        if steering is None:
            return original(*args, **kwargs)
        given = (kwargs.get("input_ids"), kwargs.get("inputs"), *args[:1])
        prompt_ids = next((ids for ids in given if ids is not None), None)
        if not isinstance(prompt_ids, Tensor):
            raise PromptError(
                "Steering finds image tokens in input_ids, and generate was called without them; "
                "pass input_ids (inputs_embeds alone do not say where the image is)"
            )
        mask = kwargs.get("attention_mask")
        length = mask.shape[1] if isinstance(mask, Tensor) and mask.dim() == 2 else 0
        outer = getattr(self._local, "generation", None)
        self._local.feature_lengths = None
        steering.record(None)
        self._local.generation = Generation(steering, prompt_ids, max(length, prompt_ids.shape[1]))
        self._local.forwarded = False
        try:
            output = original(*args, **kwargs)
        finally:
            self._local.generation = outer
        if not self._local.forwarded:
            _warn_passed_by()
        return output

    def _model_forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self._local.forwarded = True
            generation: Generation | None = getattr(self._local, "generation", None)
            steering = self._attention() if generation is None else generation.steering
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
            self._local.make_call = functools.partial(
                ForwardCall,
                steering,
                steering.attention,
                named.get("input_ids"),
                named.get("attention_mask"),
                generation,
            )
            self._local.decoded = False
            try:
                output = original(*args, **kwargs)
            finally:
                self._local.make_call = None
            if not self._local.decoded:
                _warn_passed_by()
            return output

    def _get_image_features(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outputs = original(*args, **kwargs)
        if getattr(self._local, "video", False):
            return outputs
        self._local.feature_lengths = feature_lengths(getattr(outputs, "pooler_output", None))
        steering = self._norms()
        if steering is not None and steering.norms is not None:
            outputs = rescale_features(outputs, steering.norms, self._norms_of_text())
        steering = self._amplification()
        if steering is not None and steering.amplification is not None:
            outputs = steering.amplification.apply(outputs)
        return outputs

    def _get_video_features(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # Some families make a video's tokens with get_image_features.
        self._local.video = True
        try:
            return original(*args, **kwargs)
        finally:
            self._local.video = False

    def _norms_of_text(self) -> Tensor:
        embedding = self._model().get_input_embeddings()
        version = table_version(embedding)
        if version is None or self._text_norms is None or self._text_norms[0] != version:
            self._text_norms = (version, text_embedding_norms(embedding))
        return self._text_norms[1]

    def _decoder_forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._local.decoded = True
        make_call = getattr(self._local, "make_call", None)
        if make_call is None:
            if getattr(self._local, "generation", None) is None and self._attention() is not None:
                _warn_passed_by()
            return original(*args, **kwargs)
        kwargs = {**dict(zip(self._decoder_names, args, strict=False)), **kwargs}
        head = self._model().get_output_embeddings()
        decoder_call = DecoderCall(original, kwargs, head, self._attention_configs)
        # The vision encoder may have run since the model's forward began.
        lengths = getattr(self._local, "feature_lengths", None)
        return self._steer(make_call(feature_lengths=lengths), decoder_call)

    def _steer(self, call: ForwardCall, decoder_call: DecoderCall) -> Any:
        cache, length = decoder_call.cache, decoder_call.length
        cached = sequence_length(cache)
        end = cached + length
        generation = call.generation
        state = self._states.get(cache) if cache is not None else None
        if state is None and generation is not None:
            state = generation.state
        ids = call.ids_seen(state, cached, length)

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
            self.planner.check_chunk(call, ids)
            if cache is not None:
                self._states[cache] = PromptState(ids)
            return decoder_call.forward(**decoder_call.kwargs)

        if cache is None and state is not None and state.alpha is not None:
            plan = self.planner.plan(call, ids, cached, prompt_length)
            return _run_decided(decoder_call, plan, expand_prompts(state.alpha, len(ids)))

        plan = self.planner.plan(call, ids, cached, prompt_length)
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

    def _steer_decoded(
        self, call: DecoderCall, state: PromptState, steering: ScalingVis | AdaptVis, end: int
    ) -> Any:
        rows = call.kwargs["inputs_embeds"].shape[0]
        if state.columns is None or state.alpha is None:
            return call.forward(**call.kwargs)
        columns = expand_prompts(state.columns, rows)
        columns = nn.functional.pad(columns, (0, end - columns.shape[1]))
        steered = torch.ones((rows, call.length), dtype=torch.bool, device=columns.device)
        reasons = tuple(
            reason for reason in state.reasons for _ in range(rows // len(state.reasons))
        )
        plan = PromptPlan(steering, columns, steered, 0, reasons)
        return _run_decided(call, plan, expand_prompts(state.alpha, rows))

    @staticmethod
    def _report(steering: Steering, decisions: DecisionBatch, rows_per_prompt: int) -> None:
        decisions = replace(decisions, rows_per_prompt=rows_per_prompt)
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


def _warn_passed_by() -> None:
    warnings.warn(
        "The model ran past adaptvis's patch, so this call was not steered; call the model itself "
        "(not model.model), and patch it again if something has replaced its methods since",
        AdaptVisWarning,
        stacklevel=3,
    )


def _run_decided(call: DecoderCall, plan: PromptPlan, alpha: Tensor) -> Any:
    """A steered call whose coefficients are known; one pass unless a prompt must stay as it is."""
    if plan.may_keep:
        return run_prompt(call, plan, alpha)[0]
    return run_steered(call.tail(0), plan, alpha)


def attention_configs(decoder: nn.Module) -> list[Any]:
    """The configurations from which the decoder's layers read their attention implementation."""
    configs: dict[int, Any] = {id(decoder.config): decoder.config}
    for module in decoder.modules():
        if hasattr(module, "layer_idx") and hasattr(module, "config"):
            configs[id(module.config)] = module.config
    return list(configs.values())


def feature_lengths(features: Any) -> list[int] | None:
    """Tokens per image, where the encoder returns one entry per image."""
    if isinstance(features, Tensor):
        return [features.shape[1]] * len(features) if features.dim() == 3 else None
    if isinstance(features, list | tuple):
        return [len(feature) for feature in features]
    return None
