"""The transformers engine: batches of images and prompts in, steered greedy answers out.

All configurations of a batch share one prefill: the unsteered run fills a cache, the cache is cut
back to the first steered row, and each configuration continues from there through the patched
``generate``.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, DynamicCache

from adaptvis.config import TOKEN_METHODS, AdaptVis, ScalingVis, SteeringConfig
from adaptvis.engine import Answer, Query
from adaptvis.errors import (
    AdaptVisError,
    AdaptVisWarning,
    CheckpointError,
    ConfigError,
)
from adaptvis.hf.cache import can_roll_back, recording_past, sequence_length
from adaptvis.hf.encoding import encode
from adaptvis.hf.families import family_for
from adaptvis.hf.greedy import greedy_generation
from adaptvis.hf.library import cache_argument
from adaptvis.hf.patch import steer
from adaptvis.model_inputs import (
    ImageBackend,
    describe_processor,
    load_processor,
    load_whole,
    model_source,
)
from adaptvis.steering.policy import NOT_A_NUMBER, confidence_of
from adaptvis.steering.spans import steered_rows

__all__ = ["HFEngine"]

_DTYPES = ("auto", "float32", "bfloat16", "float16")
# Encoder inputs that the cached prefix has already consumed.
_PIXELS = ("pixel_values", "pixel_attention_mask", "pixel_values_videos")


class HFEngine:
    """A transformers model and its processor behind :class:`adaptvis.engine.Engine`."""

    name = "hf"

    def __init__(self, model: Any, processor: Any, source: str = "") -> None:
        self.model = model.eval()
        self.processor = processor
        self.source = source or getattr(model.config, "_name_or_path", "") or type(model).__name__
        self.family = family_for(model.config)
        self._cache_name = cache_argument(inspect.signature(model.forward).parameters)
        processor.tokenizer.padding_side = "left"

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        dtype: str = "auto",
        device: str | None = None,
        attn_implementation: str | None = None,
        image_backend: ImageBackend = "pil",
        trust_remote_code: bool = False,
    ) -> HFEngine:
        """Load a local directory or a hub id.

        Args:
            dtype: auto (as stored; float32 on a CPU), float32, bfloat16 or float16.
            device: default is CUDA where there is one, else the CPU.
            image_backend: pil, or torchvision, which is faster and gives slightly other pixels.

        Raises:
            CheckpointError: nothing loadable is there.
            UnknownFamilyError: the model's family cannot be steered.
        """
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if dtype == "auto" and device == "cpu":
            dtype = "float32"
        # Registers our own architectures; not needed by, or for, any other model.
        import adaptvis.models  # noqa: F401

        source = model_source(str(model))
        try:
            family_for(AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code))
            processor = load_processor(
                source, trust_remote_code=trust_remote_code, image_backend=image_backend
            )
            loaded = load_whole(
                AutoModelForImageTextToText,
                source,
                dtype=dtype,
                attn_implementation=attn_implementation,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
            )
        except AdaptVisError:
            raise
        except SafetensorError as error:
            raise CheckpointError(
                f"The weights of the model {source} are damaged ({error}); get them again"
            ) from None
        except (OSError, KeyError, ImportError, ValueError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise CheckpointError(f"Cannot load the model {source}: {first}") from None
        return cls(loaded.to(device), processor, source)

    def describe(self) -> dict[str, str]:
        """Model, dtype, device, attention, image processor and library versions."""
        return {
            "engine": self.name,
            "model": self.source,
            "model_type": self.family.model_type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": str(self.model.device),
            "attention": str(self.family.decoder_of(self.model).config._attn_implementation),
            **describe_processor(self.processor),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }

    @torch.inference_mode()
    def answer(
        self,
        queries: Sequence[Query],
        configs: Sequence[SteeringConfig | None],
        *,
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        """See :meth:`adaptvis.engine.Engine.answer`."""
        wanted = [_constant(config) for config in configs]
        configs = list(dict.fromkeys(wanted))
        if len(configs) < len(wanted):
            answers = self.answer(queries, configs, max_new_tokens=max_new_tokens)
            return [answers[configs.index(config)] for config in wanted]
        inputs = self.encode(queries)
        results: list[list[Answer] | None] = [None] * len(configs)
        # These change the image tokens, and with them all that follows: no prefill to share.
        own_prefill = [i for i, config in enumerate(configs) if isinstance(config, TOKEN_METHODS)]
        for index in own_prefill:
            results[index] = self._generate(inputs, configs[index], None, max_new_tokens)

        # Later first rows first, so that the cache only ever has to be cut back further.
        first_rows = {
            i: self._first_row(config, inputs)
            for i, config in enumerate(configs)
            if i not in own_prefill
        }
        by_length = self._by_length(inputs)
        ragged = [i for i, first in first_rows.items() if first == 0]
        if ragged and len(by_length) > 1:
            # Padding pushes short prompts' image tokens behind the first steered row of long ones.
            first_rows = {i: first for i, first in first_rows.items() if first}
            collected: dict[int, list[Answer]] = {i: [] for i in ragged}
            for members in by_length:
                part = [queries[i] for i in members]
                own = self.answer(part, [configs[i] for i in ragged], max_new_tokens=max_new_tokens)
                for index, group in zip(ragged, own, strict=True):
                    collected[index] += group
            order = [i for members in by_length for i in members]
            for index in ragged:
                placed = dict(zip(order, collected[index], strict=True))
                results[index] = [placed[i] for i in range(len(queries))]
        cache = self._new_cache()
        with recording_past(cache):
            for index in sorted(first_rows, key=lambda i: -first_rows[i]):
                first = first_rows[index]
                if first == 0:
                    results[index] = self._generate(
                        inputs, configs[index], self._new_cache(), max_new_tokens
                    )
                    continue
                length = sequence_length(cache)
                if length > first and not can_roll_back(cache, length, length - first):
                    cache = self._new_cache()
                elif length > first:
                    cache.crop(-(length - first))
                results[index] = self._generate(inputs, configs[index], cache, max_new_tokens)
        return [result for result in results if result is not None]

    def _new_cache(self) -> DynamicCache:
        return DynamicCache(config=self.family.decoder_of(self.model).config)

    def encode(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """Processor outputs for a batch, padded on the left."""
        return encode(queries, self.model, self.processor, self.source)

    def _by_length(self, inputs: dict[str, Tensor]) -> list[list[int]]:
        """Prompts of equal length together; one group where no prefill can be shared anyway."""
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        if "token_type_ids" in inputs:
            return [list(range(len(lengths)))]
        groups: dict[int, list[int]] = {}
        for index, length in enumerate(lengths):
            groups.setdefault(length, []).append(index)
        return list(groups.values())

    def _first_row(self, config: SteeringConfig | None, inputs: dict[str, Tensor]) -> int:
        """The first column to compute again for this configuration; 0 shares no prefill."""
        # Families with token types let image or prefix tokens see later ones of their block.
        if "token_type_ids" in inputs:
            return 0
        ids = inputs["input_ids"]
        length = int(ids.shape[1])
        first = length - 1
        image = ids == self.family.placeholder_of(self.model.config)
        if not isinstance(config, ScalingVis | AdaptVis):
            return first
        # Only the encoder tells adjacent images apart, so it has to run again.
        if self.family.adjacent_images and (config.images or config.regions):
            return 0
        if config.rows == "text_after_image":
            padding = inputs["attention_mask"] == 0
            others = ids.new_tensor(self.family.other_placeholders_of(self.model.config))
            others = torch.isin(ids, others)
            rows = steered_rows(config.rows, image, length, padding, others).any(dim=0)
            first = int(torch.where(rows)[0][0]) if bool(rows.any()) else first
        # Image tokens in the part to compute again would need the encoder again.
        return 0 if bool(image[:, first:].any()) else first

    def _generate(
        self,
        inputs: dict[str, Tensor],
        config: SteeringConfig | None,
        cache: DynamicCache | None,
        max_new_tokens: int,
    ) -> list[Answer]:
        inputs = dict(inputs)
        cached = sequence_length(cache)
        if cached:
            for name in _PIXELS:
                inputs.pop(name, None)
        with (
            steer(self.model, config, processor=self.processor) as handle,
            greedy_generation(self.model),
            warnings.catch_warnings(),
        ):
            # Every answer carries its own reason.
            warnings.simplefilter("ignore", AdaptVisWarning)
            output = self.model.generate(
                **inputs,
                **{self._cache_name: cache},
                use_cache=True,
                tokenizer=self.processor.tokenizer,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                output_logits=True,
                return_dict_in_generate=True,
            )
        tokens = output.sequences[:, inputs["input_ids"].shape[1] :]
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        if handle.last:
            decisions = [(d.confidence, d.alpha, d.applied, d.reason) for d in handle.last]
        else:
            placeholder = self.family.placeholder_of(self.model.config)
            images = (inputs["input_ids"] == placeholder).any(dim=1).tolist()
            reasons = [
                "steering is off" if config is None else "" if image else "the prompt has no image"
                for image in images
            ]
            confidence = confidence_of(output.logits[0]).tolist()
            reasons = [_checked(*pair) for pair in zip(reasons, confidence, strict=True)]
            decisions = [
                (value, 1.0, not reason, reason)
                for value, reason in zip(confidence, reasons, strict=True)
            ]
        return [
            Answer(text.strip(), tuple(ids), confidence, alpha, applied, reason)
            for text, ids, (confidence, alpha, applied, reason) in zip(
                texts, tokens.tolist(), decisions, strict=True
            )
        ]


def _checked(reason: str, confidence: float) -> str:
    """The reason, and that the model's logits are no numbers."""
    return "; ".join(filter(None, (reason, NOT_A_NUMBER if math.isnan(confidence) else "")))


def _constant(config: SteeringConfig | None) -> SteeringConfig | None:
    """AdaptVis whose two coefficients agree is ScalingVis: the same answers, asked once."""
    if not isinstance(config, AdaptVis) or config.alpha_low != config.alpha_high:
        return config
    where = config.to_dict()
    for name in ("method", "alpha_low", "alpha_high", "threshold", "compared"):
        where.pop(name, None)
    return ScalingVis(alpha=config.alpha_low, **where)
