"""The front end's part: checks a request's steering and decides whether it applies.

Wraps ``InputProcessor.process_inputs``, which every request passes offline and served, and what
comes before it, so that what is wrong is refused before its prompt is processed. It is a
``VLLMValidationError`` here.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vllm.exceptions import VLLMValidationError
from vllm.logger import init_logger
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.input_processor import InputProcessor

from adaptvis.errors import ConfigError, UnsupportedError
from adaptvis.steering.spans import missing_images
from adaptvis.vllm.images import Runs, image_runs
from adaptvis.vllm.parameters import (
    FIELD,
    AttentionConfig,
    ServerSteering,
    Ticket,
    read_request,
    read_server,
)
from adaptvis.vllm.support import (
    misread,
    sees_last_image_token,
    unsupported,
    uses_sliding_window,
)
from adaptvis.vllm.versions import library

__all__ = ["Policy", "install_front_end", "refuse_prompt", "request_config", "ticket_for"]

logger = init_logger("vllm.adaptvis")

NO_IMAGE = "the prompt has no image tokens"
NOT_SELECTED = "the selected images are not in the prompt"
NO_ROW = "no text follows the image of the prompt"
ENDS_IN_IMAGE = "the prompt ends in an image, whose last row this model cannot run again by itself"
ALPHA_ONE = "alpha is 1"
PROMPT_LOGPROBS = (
    "prompt_logprobs of a steered request are those of the unsteered model: adaptvis steers what "
    "is generated. To score an answer under steering, ask for the logprobs of generated tokens."
)

_RESUMABLE = (
    "Steering needs the whole prompt at once; a request whose prompt comes in parts cannot be "
    f'steered, so send it with "{FIELD}": "off"'
)


@dataclass(frozen=True)
class Policy:
    """What the engine behind an input processor can do, and does by default."""

    server: ServerSteering
    unsupported: str
    sliding_window: bool = False
    last_row_alone: bool = False
    layers: int = 0
    heads: int = 0


_POOLING = Policy(ServerSteering(), "only requests that generate text can be steered")


class _Placed(NamedTuple):
    """As vLLM's features of a prompt, before there are any."""

    modality: str
    mm_position: Any


def install_front_end() -> None:
    """Wrap ``InputProcessor`` and what calls it; a second call changes nothing."""
    process_inputs = InputProcessor.process_inputs
    if getattr(process_inputs, "_adaptvis", False):
        return
    initialize = InputProcessor.__init__
    generate = AsyncLLM.generate
    offline = library().offline_requests()
    add_requests = offline._render_and_add_requests

    @functools.wraps(initialize)
    def initialized(self: Any, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        policy = _policy(vllm_config)
        initialize(self, vllm_config, *args, **kwargs)
        self._adaptvis_policy = self.renderer._adaptvis_policy = policy

    @functools.wraps(process_inputs)
    def steered(self: Any, request_id: str, *args: Any, **kwargs: Any) -> EngineCoreRequest:
        config = _read(self, kwargs["params"] if "params" in kwargs else args[1])
        if config is not None and kwargs.get("resumable"):
            raise VLLMValidationError(_RESUMABLE, parameter=FIELD)
        request: EngineCoreRequest = process_inputs(self, request_id, *args, **kwargs)
        if request.sampling_params is not None:
            _put_ticket(request, config, self._adaptvis_policy)
        return request

    @functools.wraps(generate)
    def checked(self: Any, prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any) -> Any:
        # A stream has answered 200 before its inputs are processed.
        config = _read(self.input_processor, sampling_params)
        if config is not None and isinstance(prompt, AsyncGenerator):
            raise VLLMValidationError(_RESUMABLE, parameter=FIELD)
        refuse_prompt(config, prompt)
        return generate(self, prompt, sampling_params, *args, **kwargs)

    @functools.wraps(add_requests)
    def added(self: Any, prompts: Any, params: Any, *args: Any, **kwargs: Any) -> Any:
        # Prompts are processed one by one as they are added: all or none.
        for one in {id(one): one for one in params}.values():
            _read(self.llm_engine.input_processor, one)
        return add_requests(self, prompts, params, *args, **kwargs)

    steered._adaptvis = True  # type: ignore[attr-defined]
    AsyncLLM.generate = checked
    offline._render_and_add_requests = added
    InputProcessor.__init__ = initialized
    InputProcessor.process_inputs = steered


def _read(processor: Any, params: Any) -> AttentionConfig | None:
    if not isinstance(params, SamplingParams):
        request_config(_POOLING, getattr(params, "extra_kwargs", None), "extra_kwargs")
        return None
    return request_config(processor._adaptvis_policy, params.extra_args, "extra_args")


def request_config(
    policy: Policy, arguments: Mapping[str, Any] | None, place: str
) -> AttentionConfig | None:
    """A request's configuration, or the server's default.

    Args:
        place: what the client calls ``arguments``.

    Raises:
        VLLMValidationError: it is wrong, or this engine cannot follow it.
    """
    try:
        config = read_request(
            arguments, policy.server.attention, place=place, bare=not policy.unsupported
        )
        _check(config, policy)
    except ConfigError as error:
        raise VLLMValidationError(str(error), parameter=FIELD) from None
    return config


def refuse_prompt(config: AttentionConfig | None, prompt: Any) -> None:
    """Refuse a prompt that vLLM's renderer has made where ``config`` does not go with its images.

    Raises:
        VLLMValidationError: as from :func:`ticket_for`.
    """
    if config is None or not isinstance(prompt, Mapping) or prompt.get("type") != "multimodal":
        return
    placed = [
        _Placed(modality, position)
        for modality, positions in prompt["mm_placeholders"].items()
        for position in positions
    ]
    placed.sort(key=lambda one: one.mm_position.offset)
    length = len(prompt["prompt_token_ids"])
    ticket_for(config, image_runs(placed), length, "", others=_others(placed))


def _others(features: Iterable[Any]) -> list[tuple[int, int]]:
    """First and behind the last token of what is neither text nor image."""
    return [
        (one.mm_position.offset, one.mm_position.offset + one.mm_position.length)
        for one in features
        if one.modality != "image"
    ]


def _policy(vllm_config: Any) -> Policy:
    """Read the server's defaults.

    Raises:
        ConfigError: they are wrong.
        UnsupportedError: there are some, and the engine cannot follow them; or vLLM would load
            another model than the checkpoint's.
    """
    wrong = misread(vllm_config)
    if wrong:
        raise UnsupportedError(wrong)
    server = read_server(vllm_config.additional_config)
    reason = unsupported(vllm_config)
    if reason and (server.attention is not None or server.norms is not None):
        raise UnsupportedError(f"adaptvis cannot steer this engine: {reason}")
    if reason:
        return Policy(server, reason)
    model_config = vllm_config.model_config
    policy = Policy(
        server,
        "",
        uses_sliding_window(model_config),
        not sees_last_image_token(model_config),
        model_config.hf_text_config.num_hidden_layers,
        model_config.hf_text_config.num_attention_heads,
    )
    _check(server.attention, policy)
    return policy


def _check(config: AttentionConfig | None, policy: Policy) -> None:
    """Raises ConfigError where this engine cannot do what a configuration asks for."""
    if config is None:
        return
    if policy.unsupported:
        raise ConfigError(f"adaptvis cannot steer requests of this engine: {policy.unsupported}")
    _check_range("layers", config.layers, policy.layers)
    _check_range("heads", config.heads, policy.heads)
    if config.rows == "text_after_image" and policy.sliding_window:
        raise ConfigError(
            "rows='text_after_image' is not supported in vLLM for models with sliding-window "
            "layers, whose earlier keys are gone; use rows='last_prompt_token'"
        )


def _check_range(name: str, indices: Sequence[int] | None, count: int) -> None:
    if indices is not None and max(indices) >= count:
        raise ConfigError(
            f"{FIELD} {name}: the model has {count} {name} (0 to {count - 1}), got {max(indices)}"
        )


def _put_ticket(request: EngineCoreRequest, config: AttentionConfig | None, policy: Policy) -> None:
    params = request.sampling_params
    length = len(request.prompt_token_ids or ())
    ticket = ticket_for(
        config,
        image_runs(request.mm_features),
        length,
        request.request_id,
        others=_others(request.mm_features or ()),
        last_row_alone=policy.last_row_alone,
    )
    if ticket.reason and ticket.reason != ALPHA_ONE:
        logger.warning_once("adaptvis does not steer a request: %s.", ticket.reason)
    if ticket.config is not None and params.prompt_logprobs is not None:
        logger.warning_once(PROMPT_LOGPROBS)
    # A dictionary of its own: the client's may be shared by many requests.
    params.extra_args = ticket.write(params.extra_args)


def ticket_for(
    config: AttentionConfig | None,
    images: Sequence[Runs],
    prompt_length: int,
    request_id: str,
    *,
    others: Sequence[tuple[int, int]] = (),
    last_row_alone: bool = True,
) -> Ticket:
    """Whether ``config`` applies to a prompt, and if not why.

    Args:
        images: the runs of image tokens of each image.
        others: first and behind the last token of what is neither text nor image.
        last_row_alone: whether an image token at the prompt's end can be run again by itself.

    Raises:
        VLLMValidationError: the combination cannot be served.
    """
    if config is None:
        return Ticket(None, "", request_id)
    if not images:
        return Ticket(None, NO_IMAGE, request_id)
    if config.images is not None and not any(index < len(images) for index in config.images):
        return Ticket(None, NOT_SELECTED, request_id)
    if missing := missing_images(config.images or (), len(images)):
        logger.warning_once("%s.", missing)
    ends_in_image = images[-1][-1][1] >= prompt_length
    ends_in_other = any(stop >= prompt_length for _, stop in others)
    if (ends_in_image or ends_in_other) and not last_row_alone:
        return Ticket(None, ENDS_IN_IMAGE, request_id)
    if config.rows == "text_after_image":
        runs = sum(map(len, images))
        if runs > 1:
            raise VLLMValidationError(
                "rows='text_after_image' is supported in vLLM for prompts with one unbroken run "
                f"of image tokens, got {runs}; use rows='last_prompt_token'",
                parameter=FIELD,
            )
        if any(stop > images[0][0][0] for _, stop in others):
            raise VLLMValidationError(
                "rows='text_after_image' is supported in vLLM where only text follows the image; "
                "use rows='last_prompt_token'",
                parameter=FIELD,
            )
        if ends_in_image:
            return Ticket(None, NO_ROW, request_id)
    if config.method == "scalingvis" and config.alpha == 1:
        return Ticket(None, ALPHA_ONE, request_id)
    return Ticket(config, "", request_id)
