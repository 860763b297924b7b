"""What every engine does before it differs: a model's place, its processor, a query's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from transformers import AutoImageProcessor, AutoProcessor

from adaptvis.engine import Query
from adaptvis.errors import CheckpointError, ConfigError, PromptError

__all__ = [
    "ImageBackend",
    "describe_processor",
    "load_processor",
    "model_source",
    "prompt_text",
]

ImageBackend = Literal["pil", "torchvision"]
"""What resizes and cuts pictures; transformers has most of its image processors in both kinds."""


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
    """
    processor = AutoProcessor.from_pretrained(source, trust_remote_code=trust_remote_code)
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


def prompt_text(processor: Any, query: Query, source: str) -> str:
    """The text that the processor takes: the chat template's, images first, or the raw prompt.

    Args:
        source: the model's name in messages.

    Raises:
        PromptError: the processor has no chat template.
    """
    if query.raw:
        return query.prompt
    content = [{"type": "image"} for _ in query.images]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": query.prompt}]}]
    if getattr(processor, "chat_template", None) is None:
        raise PromptError(
            f"The processor of {source} has no chat template; send raw prompts with the "
            "image placeholders in place"
        )
    return str(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
