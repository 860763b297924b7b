"""The vLLM engine: every configuration of every query as one batch of an offline ``vllm.LLM``."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers
import vllm
from safetensors import SafetensorError, safe_open
from vllm.exceptions import VLLMValidationError
from vllm.platforms import current_platform
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.input_processor import InputProcessor

from adaptvis.config import NormRescale, SteeringConfig
from adaptvis.engine import Answer, Query
from adaptvis.errors import (
    AdaptVisError,
    CheckpointError,
    ConfigError,
    PromptError,
    UnsupportedError,
)
from adaptvis.model_inputs import (
    ImageBackend,
    describe_processor,
    load_processor,
    model_source,
    prompt_text,
)
from adaptvis.steering.policy import NOT_A_NUMBER
from adaptvis.vllm.offline import Decision, decisions
from adaptvis.vllm.parameters import FIELD, extra_args
from adaptvis.vllm.plugin import DISABLE, check_vllm
from adaptvis.vllm.support import unsupported

__all__ = ["VLLMEngine"]

_DTYPES = ("auto", "float32", "bfloat16", "float16")
# The worker keeps the last 10 000 decisions.
_MOST_REQUESTS = 5000


class VLLMEngine:
    """A ``vllm.LLM`` and its model's processor behind :class:`adaptvis.engine.Engine`."""

    name = "vllm"

    def __init__(self, llm: Any, processor: Any, source: str = "") -> None:
        """Raises UnsupportedError where requests of this engine cannot be steered."""
        self.llm = llm
        self.processor = processor
        self.config = llm.llm_engine.vllm_config
        self.source = source or str(self.config.model_config.model)
        reason = unsupported(self.config)
        if not getattr(InputProcessor.process_inputs, "_adaptvis", False):
            reason = (
                f"its plugin is not loaded; unset {DISABLE}, and if VLLM_PLUGINS is set, name "
                "adaptvis in it"
            )
        if reason:
            self.close()
            raise UnsupportedError(f"adaptvis cannot steer {self.source} in vLLM: {reason}")

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        dtype: str = "auto",
        image_backend: ImageBackend = "pil",
        trust_remote_code: bool = False,
        **options: Any,
    ) -> VLLMEngine:
        """Load a local directory or a hub id into an engine process of its own.

        A script that calls this needs vLLM's usual ``if __name__ == "__main__"``, because the
        process may import the script again.

        Args:
            dtype: auto (as stored; float32 on a CPU), float32, bfloat16 or float16.
            image_backend: as of the transformers engine, so that both see the same pixels; vLLM by
                itself takes torchvision where that is installed.
            options: further arguments of ``vllm.LLM``. By default the context is as long as the
                cache allows; on a CPU the model runs without compilation and the cache takes 1 GiB
                (``VLLM_CPU_KVCACHE_SPACE``).

        Raises:
            CheckpointError: nothing loadable is there.
            UnsupportedError: this model or engine cannot be steered, or vLLM is of a version that
                is not known.
        """
        check_vllm()
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
        source = model_source(str(model))
        # Raw log-probabilities are the confidence of unsteered requests.
        settings: dict[str, Any] = {"max_model_len": -1, "use_tqdm_on_load": False} | options
        settings |= {"logprobs_mode": "raw_logprobs"}
        if current_platform.is_cpu():
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            settings.setdefault("enforce_eager", True)
            dtype = "float32" if dtype == "auto" else dtype
        try:
            processor = load_processor(
                source, trust_remote_code=trust_remote_code, image_backend=image_backend
            )
            _check_weights(source)
            llm = vllm.LLM(
                model=source, dtype=dtype, trust_remote_code=trust_remote_code, **settings
            )
        except AdaptVisError:
            raise
        except SafetensorError as error:
            raise CheckpointError(
                f"The weights of the model {source} are damaged ({error}); get them again"
            ) from None
        except (OSError, KeyError, ImportError, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise CheckpointError(f"Cannot load the model {source}: {first}") from None
        loaded = cls(llm, processor, source)
        # As an argument of the whole processor the backend would also be asked of its other parts.
        own = loaded._own_processor()
        if hasattr(own, "image_processor"):
            own.image_processor = processor.image_processor
        return loaded

    def close(self) -> None:
        """End the engine's process and give its memory back; a second call changes nothing."""
        llm = self.__dict__.pop("llm", None)
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()

    def __del__(self) -> None:
        self.close()

    def describe(self) -> dict[str, str]:
        """Model, dtype, device, attention, image processor and library versions."""
        model = self.config.model_config
        backend = self.config.attention_config.backend
        return {
            "engine": self.name,
            "model": self.source,
            "model_type": str(model.hf_config.model_type),
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": str(self.config.device_config.device_type),
            "attention": "vLLM's choice" if backend is None else str(backend.name),
            **describe_processor(self._own_processor()),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "vllm": vllm.__version__,
        }

    def _own_processor(self) -> Any:
        """The processor that vLLM itself runs pictures through."""
        return self.llm.llm_engine.renderer.get_mm_processor().info.get_hf_processor()

    def answer(
        self,
        queries: Sequence[Query],
        configs: Sequence[SteeringConfig | None],
        *,
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        """See :meth:`adaptvis.engine.Engine.answer`. vLLM's prefix cache shares the prefill.

        Raises:
            ConfigError: a configuration that vLLM cannot follow, such as NormRescale or Amplify.
            PromptError: a prompt does not fit its images or the context length.
        """
        if any(isinstance(config, NormRescale) for config in configs):
            raise ConfigError(
                "norm_rescale cannot change between the requests of one vLLM engine, which shares "
                "image embeddings between them; evaluate it with --engine hf"
            )
        distinct = list(dict.fromkeys(configs))
        arguments = [extra_args(config) for config in distinct]  # type: ignore[arg-type]
        prompts = [self._prompt(query) for query in queries]
        # A query's configurations follow each other, so that its prefix is cached when they come.
        pairs = list(product(range(len(queries)), range(len(distinct))))
        answers: dict[tuple[int, int], Answer] = {}
        for start in range(0, len(pairs), _MOST_REQUESTS):
            part = pairs[start : start + _MOST_REQUESTS]
            answered = self._generate(
                [prompts[q] for q, _ in part], [arguments[c] for _, c in part], max_new_tokens
            )
            answers.update(zip(part, answered, strict=True))
        places = [distinct.index(config) for config in configs]
        return [[answers[q, place] for q in range(len(queries))] for place in places]

    def _generate(
        self, prompts: list[dict[str, Any]], arguments: list[dict[str, str]], max_new_tokens: int
    ) -> list[Answer]:
        # The model's own default, which transformers' generate follows, too.
        penalty = self.llm.get_default_sampling_params().repetition_penalty
        parameters = [
            vllm.SamplingParams(
                temperature=0,
                max_tokens=max_new_tokens,
                logprobs=1,
                repetition_penalty=penalty,
                detokenize=False,
                extra_args=own,
            )
            for own in arguments
        ]
        try:
            outputs = self.llm.generate(prompts, parameters, use_tqdm=False)
        except EngineDeadError:
            raise AdaptVisError(
                f"vLLM's engine for {self.source} has died, and no question can be asked any more; "
                "its own messages say why; go on with --resume, with a smaller --batch-size where "
                "memory was short"
            ) from None
        except BaseException as error:
            self._forget_the_batch()
            if isinstance(error, VLLMValidationError):
                kind = ConfigError if error.parameter == FIELD else PromptError
                raise kind(str(error.args[0])) from None
            # A missing placeholder is an assertion of vLLM's.
            if isinstance(error, ValueError | AssertionError):
                raise PromptError(f"vLLM refused the batch: {error}") from None
            raise
        decided = decisions(self.llm, [output.request_id for output in outputs])
        tokens = [list(output.outputs[0].token_ids) for output in outputs]
        texts = self.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [
            _answer(text, output.outputs[0], decided[output.request_id])
            for text, output in zip(texts, outputs, strict=True)
        ]

    def _forget_the_batch(self) -> None:
        """Leave nothing of a refused batch behind that would spoil the next one.

        Requests before the refused one may be waiting; and vLLM counts on its engine to hold every
        picture that its front end has seen, which the engine never got.
        """
        engine = self.llm.llm_engine
        if waiting := list(engine.output_processor.request_states):
            engine.abort_request(waiting, internal=True)
        self.llm.reset_mm_cache()

    def _prompt(self, query: Query) -> dict[str, Any]:
        config = self.config.model_config.hf_config
        text = prompt_text(self.processor, query, self.source, config)
        prompt: dict[str, Any] = {"prompt": text}
        if query.images:
            prompt["multi_modal_data"] = {"image": list(query.images)}
        return prompt


def _check_weights(source: str) -> None:
    """Open local weights here: what fails in the engine's process is hard to read."""
    if not Path(source).is_dir():
        return
    files = sorted(Path(source).glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"No weights at {source}: *.safetensors files are expected")
    for file in files:
        with safe_open(file, framework="pt"):
            pass


def _answer(text: str, output: Any, decision: Decision) -> Answer:
    confidence, reason = decision.confidence, decision.reason
    if confidence is None:
        confidence = math.exp(max(entry.logprob for entry in output.logprobs[0].values()))
    if decision.applied and decision.alpha == 1:
        reason = "alpha is 1"
    if math.isnan(confidence) and NOT_A_NUMBER not in reason:
        reason = "; ".join(filter(None, (reason, NOT_A_NUMBER)))
    return Answer(
        text.strip(), tuple(output.token_ids), confidence, decision.alpha, not reason, reason
    )
