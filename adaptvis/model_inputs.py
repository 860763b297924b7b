"""What every engine does before it differs: a model's place, its processor, a query's text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import transformers
from transformers import AutoImageProcessor, AutoProcessor

from adaptvis.engine import Query
from adaptvis.errors import CheckpointError, ConfigError, PromptError

__all__ = [
    "ImageBackend",
    "context_length",
    "describe_processor",
    "load_processor",
    "load_whole",
    "model_source",
    "prompt_text",
]

ImageBackend = Literal["pil", "torchvision"]
"""What resizes and cuts pictures; transformers has most of its image processors in both kinds."""

# Attributes that hold what stands for a picture: text of a processor, a token's id of a model.
_MARK = r"[a-z_]*(?:image|img|video|audio|vision|boi|eoi|boa|eoa)[a-z_]*_(?:token|tag)"
_MARK_TEXT = re.compile(_MARK)
_MARK_ID = re.compile(rf"{_MARK}_(?:id|index)")
_REPLACED_ID = re.compile(r"(?:image|video|audio)_token_(?:id|index)")


def model_source(model: str) -> str:
    """The folder of a local model, or a hub id as it is.

    Raises:
        CheckpointError: it looks like a folder, and holds no model.
    """
    path = Path(model)
    if not model.startswith((".", "/", "~")) and not path.exists():
        return model
    if not (path.expanduser() / "config.json").is_file():
        raise CheckpointError(
            f"No model at {model}: a directory with config.json, weights and processor files "
            "is expected"
        )
    return str(path.expanduser())


def load_processor(
    source: str | Path, *, trust_remote_code: bool = False, image_backend: ImageBackend = "pil"
) -> Any:
    """A model's processor, with the same pixels in every environment.

    By itself transformers takes torchvision where that can be imported and Pillow elsewhere, and
    the same model's logits then differ by about 1e-2. A processor that comes in one kind only is
    left as it is.

    Raises:
        ConfigError: torchvision was asked for, and the processor is not to be had with it.
        CheckpointError: the processor is only to be had with torchvision, which is missing.
    """
    try:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
    except ImportError as problem:
        if "torchvision" not in str(problem).lower():
            raise
        raise CheckpointError(
            f"The image processor of {source} needs torchvision in transformers "
            f"{transformers.__version__}; pip install torchvision, or a later transformers, which "
            "has more of them for Pillow"
        ) from None
    own = getattr(processor, "image_processor", None)
    if own is None or getattr(own, "backend", None) in (None, image_backend):
        return processor
    other = AutoImageProcessor.from_pretrained(
        source, backend=image_backend, trust_remote_code=trust_remote_code
    )
    if getattr(other, "backend", None) == image_backend:
        processor.image_processor = other
    elif image_backend == "torchvision":
        raise ConfigError(
            f"The image processor of {source} cannot use torchvision here; install torchvision, or "
            "leave image_backend out"
        )
    return processor


def describe_processor(processor: Any) -> dict[str, str]:
    """The class and the backend of the image processor that runs."""
    own = getattr(processor, "image_processor", None)
    if own is None:
        return {}
    return {
        "image_processor": type(own).__name__,
        "image_backend": str(getattr(own, "backend", "unknown")),
    }


def load_whole(auto: Any, source: str | Path, **options: Any) -> Any:
    """``auto.from_pretrained``, where the checkpoint has every weight of the model.

    transformers fills the others with random numbers and says so in a log.

    Raises:
        CheckpointError: weights are missing, or have other shapes.
    """
    model, found = auto.from_pretrained(
        source, output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    if other := sorted(found["mismatched_keys"]):
        name, stored, wanted = other[0]
        raise CheckpointError(
            f"The checkpoint of {source} does not belong to its config.json: {name} is of shape "
            f"{list(stored)} and should be of {list(wanted)}; get both from one place"
        )
    if missing := sorted(found["missing_keys"]):
        raise CheckpointError(
            f"The checkpoint of {source} is not whole: weights are missing, which would be random "
            f"numbers ({len(missing)}, the first {missing[0]}); get all of it, and see that its "
            "config.json belongs to it"
        )
    return model


def context_length(text_config: Any) -> int | None:
    """How many positions a decoder was trained on; None where rotary embeddings are stretched."""
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        return None
    return getattr(text_config, "max_position_embeddings", None)


def prompt_text(processor: Any, query: Query, source: str, config: Any = None) -> str:
    """The text that the processor takes: the chat template's, images first, or the raw prompt.

    Args:
        source: the model's name in messages.
        config: the model's; the token it replaces may be another than the processor's placeholder.

    Raises:
        PromptError: the processor has no chat template; a question holds text that this model
            takes for a picture, or a prompt has not one placeholder per image.
    """
    for mark in sorted(_reserved(processor, config, raw=query.raw)):
        if mark in query.prompt:
            raise PromptError(
                f"A question holds {mark}, which {source} takes for a picture or a part of one; "
                f"write it otherwise, or leave it out: {query.prompt[:80]!r}"
            )
    text = query.prompt if query.raw else _from_template(processor, query, source)
    placeholder = getattr(processor, "image_token", None)
    found = text.count(placeholder) if placeholder else 0
    # Processors of PaliGemma's kind write all of them by themselves.
    if found not in (0, len(query.images)):
        raise PromptError(
            f"A prompt has {found} times the placeholder {placeholder} and comes with "
            f"{len(query.images)} images; put one placeholder per image into it: "
            f"{query.prompt[:80]!r}"
        )
    return text


def _from_template(processor: Any, query: Query, source: str) -> str:
    content = [{"type": "image"} for _ in query.images]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": query.prompt}]}]
    if getattr(processor, "chat_template", None) is None:
        raise PromptError(
            f"The processor of {source} has no chat template; send raw prompts with the "
            "image placeholders in place"
        )
    return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))


def _reserved(processor: Any, config: Any, *, raw: bool) -> set[str]:
    """What the text of a query must not hold, or a picture too many would be read out of it.

    A template writes placeholders and their edges itself. A raw prompt holds them already; only
    the token that the model replaces has to come from the processor.
    """
    tokenizer = getattr(processor, "tokenizer", None)
    wanted = _REPLACED_ID if raw else _MARK_ID
    ids = [
        value
        for name, value in (vars(config) if config is not None else {}).items()
        if wanted.fullmatch(name) and isinstance(value, int) and value >= 0
    ]
    tokens = {tokenizer.convert_ids_to_tokens(value) for value in ids} if tokenizer else set()
    if raw:
        return {str(token) for token in tokens if token} - {getattr(processor, "image_token", "")}
    named = {**getattr(tokenizer, "special_tokens_map", {}), **vars(processor)}
    texts = {
        text for name, text in named.items() if _MARK_TEXT.fullmatch(name) and isinstance(text, str)
    }
    return {str(mark) for mark in tokens | texts if mark}
