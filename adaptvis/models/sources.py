"""What a new LLaVA is put together from: a language model's folder, a vision tower's folder.

Either may itself be a LLaVA, of which the part is then taken.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionModel,
    SiglipVisionModel,
)

from adaptvis.errors import AdaptVisError, CheckpointError, UnsupportedError
from adaptvis.model_inputs import load_processor, load_whole
from adaptvis.models.configuration import MODEL_TYPE
from adaptvis.models.locating import hub_problem, quiet_hub, require_place

__all__ = [
    "LLAVA_TYPES",
    "LanguageModel",
    "VisionTower",
    "load_language_model",
    "load_vision_tower",
    "read_config",
    "readable",
    "require_image_processor",
]

LLAVA_TYPES = ("llava", MODEL_TYPE)
_TOWERS: dict[str, Any] = {
    "clip": CLIPVisionModel,
    "clip_vision_model": CLIPVisionModel,
    "siglip": SiglipVisionModel,
    "siglip_vision_model": SiglipVisionModel,
}


class LanguageModel(NamedTuple):
    """A decoder with its head, its tokenizer and, of a LLaVA, the chat template."""

    decoder: Any
    head: Any
    generation_config: Any
    tokenizer: Any
    chat_template: str | None


class VisionTower(NamedTuple):
    """A vision encoder, its image processor and, of a LLaVA, its layers and strategy."""

    encoder: Any
    image_processor: Any
    feature_layer: int | list[int] = -2
    select_strategy: str | None = None


@contextmanager
def readable(what: str, source: str | Path) -> Iterator[None]:
    """Turn what loading raises into one sentence.

    Raises:
        CheckpointError: something in the block could not be read.
    """
    try:
        with quiet_hub():
            yield
    except AdaptVisError:
        raise
    except SafetensorError as error:
        raise CheckpointError(
            f"The weights of {source} are damaged ({error}); get them again"
        ) from None
    except pickle.UnpicklingError:
        # Torch's own message advises to let the file run code.
        raise CheckpointError(
            f"Cannot read {what} from {source}: a .bin file is damaged, or holds something else "
            "than tensors"
        ) from None
    except (OSError, KeyError, ImportError, ValueError, TypeError, RuntimeError) as error:
        problem = hub_problem(error, source)
        if problem is not None:
            raise CheckpointError(problem) from None
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise CheckpointError(f"Cannot read {what} from {source}: {first}") from None


def read_config(source: str | Path) -> Any:
    """The configuration of a folder or hub id.

    Raises:
        CheckpointError: there is none.
    """
    require_place(source)
    with readable("a configuration", source):
        return AutoConfig.from_pretrained(source)


def require_image_processor(source: str | Path) -> None:
    """Refuse a folder without an image processor's settings.

    Raises:
        CheckpointError: says which file is missing.
    """
    folder = Path(source).expanduser()
    names = ("preprocessor_config.json", "processor_config.json")
    if folder.is_dir() and not any((folder / name).is_file() for name in names):
        raise CheckpointError(
            f"The folder {source} says nothing of how images are prepared: it has no {names[0]}; "
            "copy that file from where the vision tower was published"
        )


def load_language_model(source: str | Path, dtype: str | torch.dtype) -> LanguageModel:
    """The decoder of a language model, or of a LLaVA, with its tokenizer.

    Raises:
        CheckpointError: nothing loadable is there.
        UnsupportedError: the model is not a causal language model.
    """
    config = read_config(source)
    if config.model_type in LLAVA_TYPES:
        with readable("a LLaVA", source):
            whole = load_whole(
                AutoModelForImageTextToText, source, dtype=dtype, use_safetensors=True
            )
            processor = AutoProcessor.from_pretrained(source)
        return LanguageModel(
            whole.model.language_model,
            whole.lm_head,
            whole.generation_config,
            processor.tokenizer,
            processor.chat_template,
        )
    # Encoders such as BERT have a causal variant in the library, and both directions in training.
    if (
        type(config) not in AutoModelForCausalLM._model_mapping
        or type(config) in AutoModelForMaskedLM._model_mapping
        or getattr(config, "is_encoder_decoder", False)
        or hasattr(config, "vision_config")
    ):
        raise UnsupportedError(
            f"{source} is a {config.model_type!r} model and no language model; give a causal "
            "language model such as lmsys/vicuna-7b-v1.5, or a LLaVA whose decoder is to be taken"
        )
    with readable("a language model", source):
        model = load_whole(
            AutoModelForCausalLM, source, dtype=dtype, use_safetensors=_has_safetensors(source)
        )
        tokenizer = AutoTokenizer.from_pretrained(source)
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise UnsupportedError(
            f"The language model {source} adds a bias to its logits, which LLaVA has no place for"
        )
    return LanguageModel(
        model.base_model,
        model.get_output_embeddings(),
        model.generation_config,
        tokenizer,
        tokenizer.chat_template,
    )


def load_vision_tower(source: str | Path, dtype: str | torch.dtype) -> VisionTower:
    """The vision encoder of CLIP or SigLIP, or of a LLaVA, with its image processor.

    Raises:
        CheckpointError: nothing loadable is there.
        UnsupportedError: the model has no such encoder.
    """
    config = read_config(source)
    if config.model_type in LLAVA_TYPES:
        _check_tower(source, config.vision_config.model_type)
        require_image_processor(source)
        with readable("a LLaVA", source):
            whole = load_whole(
                AutoModelForImageTextToText, source, dtype=dtype, use_safetensors=True
            )
            processor = load_processor(source)
        return VisionTower(
            whole.model.vision_tower,
            processor.image_processor,
            config.vision_feature_layer,
            config.vision_feature_select_strategy,
        )
    _check_tower(source, config.model_type)
    require_image_processor(source)
    tower = _TOWERS[config.model_type]
    with readable("a vision tower", source):
        return VisionTower(
            load_whole(tower, source, dtype=dtype, use_safetensors=_has_safetensors(source)),
            AutoImageProcessor.from_pretrained(source, backend="pil"),
        )


def _check_tower(source: str | Path, model_type: str) -> None:
    if model_type not in _TOWERS:
        raise UnsupportedError(
            f"{source} has no vision tower that LLaVA can use: its model type is {model_type!r}; "
            "give a CLIP or SigLIP checkpoint, or a LLaVA that was built on one"
        )


def _has_safetensors(source: str | Path) -> bool | None:
    """None lets the library fall back to a restricted reading of `.bin` files."""
    folder = Path(source).expanduser()
    return True if any(folder.glob("*.safetensors")) else None
