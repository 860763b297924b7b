"""A model under steering: the method hooks, and what is remembered between them per thread.

Methods of the instance are hooked: ``generate`` and ``forward`` of the model say what the
prompt is, ``forward`` of its text decoder is where steering happens, and ``get_image_features`` is
where image-token norms are rescaled and then directions amplified.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from adaptvis.config import AdaptVis, Amplify, ScalingVis
from adaptvis.errors import UnknownFamilyError, UnsupportedError
from adaptvis.hf.amplification import Amplification
from adaptvis.hf.attention import attention_configs
from adaptvis.hf.cache import sequence_length
from adaptvis.hf.decoder_calls import DecoderCalls
from adaptvis.hf.decoder_pass import DecoderCall
from adaptvis.hf.families import family_for
from adaptvis.hf.features import feature_lengths
from adaptvis.hf.hooks import MethodHook
from adaptvis.hf.library import cache_argument, cache_of, decoding_fault, soft_prompt_fault
from adaptvis.hf.norms import rescale_features, table_version, text_embedding_norms
from adaptvis.hf.planning import ForwardCall, Planner, Steering
from adaptvis.hf.prompts import Generation
from adaptvis.hf.refusals import (
    CONTINUOUS_BATCHING,
    check_inference,
    prompt_ids_of,
    warn_passed_by,
)

__all__ = ["PatchedModel"]


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
        self.calls = DecoderCalls(self.planner)
        # The PEFT model around this one, if it was patched through it.
        self.wrapper: Callable[[], Any] = lambda: None
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
        outer: Generation | None = getattr(self._local, "generation", None)
        if steering is None:
            # A callback of a steered generation may ask for something unsteered.
            self._local.generation = None
            try:
                return original(*args, **kwargs)
            finally:
                self._local.generation = outer
        if fault := soft_prompt_fault(self.wrapper(), self._cache_name):
            raise UnsupportedError(fault)
        prompt_ids = prompt_ids_of(args, kwargs)
        mask = kwargs.get("attention_mask")
        mask = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
        length = max(0 if mask is None else mask.shape[1], prompt_ids.shape[1])
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
            warn_passed_by()
        return output

    def _continuous_batching(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._attention() is not None:
            raise UnsupportedError(CONTINUOUS_BATCHING)
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
            named = {**dict(zip(self._forward_names, args, strict=False)), **kwargs}
            generation: Generation | None = getattr(self._local, "generation", None)
            if generation is not None and generation.left_by(cache_of(named)):
                # A callback asks about a prompt of its own.
                generation = None
            steering = self._attention() if generation is None else generation.steering
            attention = None if steering is None else steering.attention
            if steering is None or attention is None:
                return original(*args, **kwargs)
            run = functools.partial(original, *args, **kwargs)
            if generation is not None:
                if generation.state is not None and self._decoding_fault:
                    raise UnsupportedError(self._decoding_fault)
                if generation.finished and attention.rows != "generated":
                    return run()
                return self._steered_forward(run, steering, attention, generation, named)
            self._local.feature_lengths = None
            try:
                return self._steered_forward(run, steering, attention, None, named)
            except BaseException:
                # What is remembered is an earlier call's.
                steering.record(None)
                raise

    def _steered_forward(
        self,
        run: Callable[[], Any],
        steering: Steering,
        attention: ScalingVis | AdaptVis,
        generation: Generation | None,
        named: dict[str, Any],
    ) -> Any:
        if isinstance(named.get("cache"), PagedAttentionCache):
            raise UnsupportedError(CONTINUOUS_BATCHING)
        check_inference(self._model(), named.get("labels"))
        self._local.make_call = functools.partial(
            ForwardCall,
            steering,
            attention,
            named.get("input_ids"),
            named.get("attention_mask"),
            named.get("labels"),
            cache_of(named) is not None,
            _keeps_last_only(named),
            generation,
        )
        self._local.decoded = False
        try:
            output = run()
        finally:
            self._local.make_call = None
        if not self._local.decoded:
            warn_passed_by()
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
            inside = getattr(self._local, "in_forward", False)
            generates = getattr(self._local, "generation", None) is not None
            if not (inside or generates) and self._attention() is not None:
                warn_passed_by()
            return original(*args, **kwargs)
        kwargs = {**dict(zip(self._decoder_names, args, strict=False)), **kwargs}
        head = self._model().get_output_embeddings()
        decoder_call = DecoderCall(
            original, kwargs, head, self._attention_configs, self._cache_name
        )
        # The vision encoder may have run since the model's forward began.
        lengths = getattr(self._local, "feature_lengths", None)
        return self.calls.run(make_call(feature_lengths=lengths), decoder_call)


def _keeps_last_only(named: dict[str, Any]) -> bool:
    """Whether a call asks for the last row's logits alone."""
    kept, ids = named.get("logits_to_keep"), named.get("input_ids")
    if not isinstance(kept, Tensor):
        return bool(kept == 1)
    last = kept.tolist() if ids is None else [ids.shape[1] - 1]
    return kept.numel() == 1 and kept.tolist() in (last, [-1])
