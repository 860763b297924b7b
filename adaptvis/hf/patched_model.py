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
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from adaptvis.config import AdaptVis, Amplify, ScalingVis
from adaptvis.errors import AdaptVisWarning, PromptError, UnknownFamilyError, UnsupportedError
from adaptvis.hf.amplification import Amplification
from adaptvis.hf.cache import sequence_length
from adaptvis.hf.decisions import DecisionBatch
from adaptvis.hf.decoder_pass import DecoderCall, PromptPlan, run_prompt, run_steered
from adaptvis.hf.families import family_for
from adaptvis.hf.hooks import MethodHook
from adaptvis.hf.library import cache_argument, cache_of, decoding_fault, soft_prompt_fault
from adaptvis.hf.norms import rescale_features, table_version, text_embedding_norms
from adaptvis.hf.planning import ForwardCall, Planner, Steering
from adaptvis.hf.prompts import (
    Generation,
    PromptState,
    expand_ends,
    expand_prompts,
    remember,
    remembered,
)

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
        self.planner = Planner(
            family, config, family.placeholder_of(config), family.other_placeholders_of(config)
        )
        # Columns that PEFT's prefix tuning puts into the cache of each plain forward call.
        self.prefix_columns: Callable[[], int] = int
        # The PEFT model around this one, if it was patched through it.
        self.wrapper: Callable[[], Any] = lambda: None
        self._warned = False
        self._attention = attention
        self._norms = norms
        self._amplification = amplification
        self._lock = threading.RLock()
        self._local = threading.local()
        self._text_norms: tuple[tuple[int, int] | None, Tensor] | None = None
        self._model: Callable[[], Any] = weakref.ref(model)

        decoder = family.decoder_of(model)
        self.decoder_config: Any = decoder.config
        self._attention_configs = attention_configs(decoder)
        signature = inspect.signature(model.forward)
        self._forward_names = tuple(signature.parameters)
        self._decoder_names = tuple(inspect.signature(decoder.forward).parameters)
        self._decoding_fault = decoding_fault(model)
        self._cache_name = cache_argument(self._decoder_names)

        self._hooks: list[MethodHook] = []
        try:
            for module, name, wrapper in (
                (model, "forward", self._enter_forward),
                (model, "generate", self._generate),
                (model, "init_continuous_batching", self._continuous_batching),
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
        if fault := soft_prompt_fault(self.wrapper(), self._cache_name):
            raise UnsupportedError(fault)
        given = (kwargs.get("input_ids"), kwargs.get("inputs"), *args[:1])
        prompt_ids = next((ids for ids in given if ids is not None), None)
        if not isinstance(prompt_ids, Tensor):
            raise PromptError(
                "Steering finds image tokens in input_ids, and generate was called without them; "
                "pass input_ids (inputs_embeds alone do not say where the image is)"
            )
        embeds = kwargs.get("inputs_embeds")
        if isinstance(embeds, Tensor) and embeds.shape[1] != prompt_ids.shape[1]:
            raise PromptError(
                f"Steering finds image tokens in input_ids, which have {prompt_ids.shape[1]} "
                f"columns for the {embeds.shape[1]} of inputs_embeds; pass one id per embedding, "
                "placeholders for an image's"
            )
        mask = kwargs.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
        length = max(0 if mask is None else mask.shape[1], prompt_ids.shape[1])
        outer: Generation | None = getattr(self._local, "generation", None)
        is_draft = outer is not None and outer.drafts
        self._local.feature_lengths = None
        if not is_draft:
            steering.record(None)
        generation = self._local.generation = Generation(
            steering,
            prompt_ids,
            length,
            mask,
            sequence_length(cache_of(kwargs)),
            drafts=kwargs.get("assistant_model") is not None,
            is_draft=is_draft,
        )
        self._local.forwarded = False
        try:
            output = original(*args, **kwargs)
        finally:
            self._local.generation = outer
            generation.close()
            if generation.decisions is not None and not is_draft:
                # A streamer or criterion may have asked the model something else meanwhile.
                steering.record(generation.decisions)
        if not self._local.forwarded:
            _warn_passed_by()
        return output

    def _continuous_batching(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._attention() is not None:
            raise UnsupportedError(_CONTINUOUS_BATCHING)
        return original(*args, **kwargs)

    def _enter_forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        outer = getattr(self._local, "in_forward", False)
        self._local.in_forward = True
        try:
            return self._model_forward(original, *args, **kwargs)
        finally:
            self._local.in_forward = outer

    def _model_forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self._local.forwarded = True
            generation: Generation | None = getattr(self._local, "generation", None)
            steering = self._attention() if generation is None else generation.steering
            if steering is None or steering.attention is None:
                return original(*args, **kwargs)
            if generation is not None and generation.state is not None and self._decoding_fault:
                raise UnsupportedError(self._decoding_fault)
            if generation is None:
                self._local.feature_lengths = None
            elif generation.finished and steering.attention.rows != "generated":
                return original(*args, **kwargs)
            if isinstance(kwargs.get("cache"), PagedAttentionCache):
                raise UnsupportedError(_CONTINUOUS_BATCHING)
            named = {**dict(zip(self._forward_names, args, strict=False)), **kwargs}
            self._check_inference(named.get("labels"))
            kept = named.get("logits_to_keep")
            self._local.make_call = functools.partial(
                ForwardCall,
                steering,
                steering.attention,
                named.get("input_ids"),
                named.get("attention_mask"),
                named.get("labels"),
                cache_of(named) is not None,
                kept.numel() == 1 if isinstance(kept, Tensor) else kept == 1,
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

    def _check_inference(self, labels: Tensor | None) -> None:
        model: Any = self._model()
        gradients = torch.is_grad_enabled()
        if labels is not None and (model.training or gradients):
            raise UnsupportedError(
                "Steering acts at inference and labels ask for a training loss; call "
                "adaptvis.unpatch(model) before training, or evaluate under torch.no_grad() with "
                "the model in eval mode"
            )
        if model.training and gradients and any(p.requires_grad for p in model.parameters()):
            raise UnsupportedError(
                "Steering acts at inference and this call would train the model; call "
                "adaptvis.unpatch(model) before training, model.eval() otherwise"
            )

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
            inside = getattr(self._local, "in_forward", False)
            generates = getattr(self._local, "generation", None) is not None
            if not (inside or generates) and self._attention() is not None:
                _warn_passed_by()
            return original(*args, **kwargs)
        kwargs = {**dict(zip(self._decoder_names, args, strict=False)), **kwargs}
        head = self._model().get_output_embeddings()
        decoder_call = DecoderCall(
            original, kwargs, head, self._attention_configs, self._cache_name
        )
        # The vision encoder may have run since the model's forward began.
        lengths = getattr(self._local, "feature_lengths", None)
        return self._steer(make_call(feature_lengths=lengths), decoder_call)

    def _steer(self, call: ForwardCall, decoder_call: DecoderCall) -> Any:
        cache, length, rows = decoder_call.cache, decoder_call.length, decoder_call.rows
        cached = sequence_length(cache)
        end = cached + length
        generation = call.generation
        state = remembered(cache)
        if state is None and generation is not None:
            state = generation.state
        virtual = call.virtual_columns(state, cached, length, self.prefix_columns())
        ids = call.ids_seen(state, cached, length, rows, virtual)
        told = call.prompt_ends(state, ids, cached, virtual)

        if told is not None:
            ends = told
        elif generation is not None:
            ends = (generation.prompt_length + virtual,) * rows
        elif length > 1 or cached == virtual:
            ends = (end,) * rows
            self._warn_of_other_rows(call, length)
        elif state is not None and state.ends is not None:
            ends = expand_ends(state.ends, rows)
        else:
            ends = (cached,) * rows

        empty = cached == virtual
        if not empty and max(ends) <= cached:
            return self._answer(call, decoder_call, state, ids, ends, told is not None)
        if min(ends) > end:
            self.planner.check_chunk(call, ids)
            remember(cache, PromptState(ids, end, virtual))
            if told is not None and generation is None:
                call.steering.record(_undecided(ids, _GOES_ON))
            return decoder_call.forward(**decoder_call.kwargs)
        if max(ends) > end or (not empty and min(ends) <= cached):
            raise PromptError(
                f"This call holds columns {cached} to {end - 1}, and its prompts end at "
                f"{min(ends) - 1} to {max(ends) - 1}; send prompts that end in the same call, or "
                "all prompts as a whole"
            )

        plan = self.planner.plan(call, ids, cached, ends, state, virtual)
        if generation is not None and state is generation.state and state is not None:
            if state.alpha is None:
                return decoder_call.forward(**decoder_call.kwargs)
            return _run_decided(decoder_call, plan, expand_prompts(state.alpha, rows))

        output, decisions = run_prompt(decoder_call, plan)
        state = PromptState(
            ids, end, virtual, ends, plan.config, plan.columns, decisions.alpha, plan.reasons
        )
        cache = cache_of(output)
        remember(cache, state)
        rows_per_prompt = 1
        if generation is not None:
            generation.state = state
            if decoder_call.keeps_cache:
                generation.cache = cache
            rows_per_prompt = max(rows // len(generation.prompt_ids), 1)
        self._report(call, decisions, rows_per_prompt)
        return output

    def _answer(
        self,
        call: ForwardCall,
        decoder_call: DecoderCall,
        state: PromptState | None,
        ids: Tensor,
        ends: tuple[int, ...],
        told: bool,
    ) -> Any:
        """A call behind the prompts: decode steps, or an answer to be scored."""
        earlier = None if state is None else state.ends
        if told and (earlier is None or expand_ends(earlier, len(ids)) != ends):
            raise PromptError(
                f"The prompts end at columns {min(ends) - 1} to {max(ends) - 1}, which are in the "
                "cache already and were not steered as the last of a prompt; prefill them under "
                "steering with the same prompt_lengths, or send prompts and answers in one call"
            )
        if state is None:
            state = PromptState(ids, ids.shape[1], ends=ends)
            remember(decoder_call.cache, state)
            self._report(call, _undecided(ids, _UNSEEN), 1)
        state.ids, state.seen = ids, ids.shape[1]
        if call.attention.rows != "generated" or state.alpha is None:
            return decoder_call.forward(**decoder_call.kwargs)
        if state.config != call.attention:
            raise PromptError(
                f"The prompts in this cache were steered by {state.config!r} and their answers are "
                f"to be steered by {call.attention!r}; prefill them again"
            )
        return self._steer_decoded(decoder_call, state, call.attention, ids.shape[1])

    def _warn_of_other_rows(self, call: ForwardCall, length: int) -> None:
        if length == 1 or call.next_token_only or self._warned:
            return
        self._warned = True
        warnings.warn(
            f"All {length} tokens of this forward call count as the prompt, so of its logits only "
            "the last row's (the next token) are those of a steered prompt; to score an answer "
            "that is among them, say where the prompt ends: with handle.scoring(prompt_lengths) or "
            "labels. logits_to_keep=1 says that the next token is all you want",
            AdaptVisWarning,
            stacklevel=2,
        )

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
        plan = PromptPlan(steering, columns, steered, (0,) * rows, reasons)
        return _run_decided(call, plan, expand_prompts(state.alpha, rows))

    @staticmethod
    def _report(call: ForwardCall, decisions: DecisionBatch, rows_per_prompt: int) -> None:
        if call.generation is not None and call.generation.is_draft:
            return
        decisions = replace(decisions, rows_per_prompt=rows_per_prompt)
        call.steering.record(decisions)
        if call.generation is not None:
            call.generation.decisions = decisions
        reasons = decisions.reasons[::rows_per_prompt]
        skipped = sorted({reason for reason in reasons if reason})
        if skipped:
            count = sum(bool(reason) for reason in reasons)
            warnings.warn(
                f"{count} of {len(reasons)} prompts were not steered: {'; '.join(skipped)}",
                AdaptVisWarning,
                stacklevel=2,
            )


_CONTINUOUS_BATCHING = (
    "Continuous batching in transformers (generate_batch, cache_implementation='paged') packs "
    "prompts into one row and takes no images, so it cannot be steered; call generate, serve the "
    "model with adaptvis.vllm, or switch steering off with adaptvis.steer(model, None)"
)
_GOES_ON = "the prompt goes on behind this call"
_UNSEEN = "the prompt came into the cache while it was not steered"


def _undecided(ids: Tensor, reason: str) -> DecisionBatch:
    """Prompts that are left alone for one reason."""
    ones = torch.ones(len(ids))
    return DecisionBatch(ones * torch.nan, ones, (reason,) * len(ids))


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
