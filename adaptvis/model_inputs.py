"""What every engine does before it differs: finding a model, and a query's text for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptvis.engine import Query
from adaptvis.errors import CheckpointError, PromptError

__all__ = ["context_length", "load_whole", "model_source", "prompt_text"]


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
