"""The hub's layout: plain LLaVA-1.5 of transformers, and our own architecture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoProcessor, GenerationConfig, LlavaConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from adaptvis.errors import CheckpointError, UnsupportedError
from adaptvis.models.configuration import AdaptVisLlavaConfig
from adaptvis.models.conversion.checkpoint import Checkpoint, write_weights
from adaptvis.models.conversion.files import SHARD_BYTES, TensorFolder
from adaptvis.models.conversion.names import classic_name
from adaptvis.models.sources import read_config, readable, require_image_processor

__all__ = ["generation_settings", "own_config", "read_hub", "write_adaptvis", "write_llava"]

_NOT_CONFIGURATION = ("model_type", "architectures", "transformers_version", "_name_or_path")


def read_hub(folder: Path) -> Checkpoint:
    """A LLaVA that transformers wrote, in any of its versions.

    Raises:
        CheckpointError: something of it is missing.
    """
    config = own_config(read_config(folder))
    require_image_processor(folder)
    with readable("a processor", folder):
        processor = AutoProcessor.from_pretrained(folder)
    files = TensorFolder(folder)
    names = {classic: name for name in files.by_name if (classic := classic_name(name))}

    def stored() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in files:
            classic = classic_name(name)
            if classic is not None:
                yield classic, tensor

    def tensor(name: str) -> Tensor:
        if name not in names:
            raise CheckpointError(f"{folder} lacks the tensor {name}; get all of its shards")
        return files[names[name]]

    return Checkpoint(folder, config, processor, generation_settings(folder), stored, tensor)


def own_config(config: Any) -> AdaptVisLlavaConfig:
    """The configuration of a plain LLaVA, or our own, as our own."""
    values = {k: v for k, v in config.to_dict().items() if k not in _NOT_CONFIGURATION}
    return AdaptVisLlavaConfig.from_dict(values)


def generation_settings(folder: Path) -> Any:
    """The folder's generation configuration, or None."""
    if not (folder / "generation_config.json").is_file():
        return None
    with readable("a generation configuration", folder):
        return GenerationConfig.from_pretrained(folder)


def write_adaptvis(checkpoint: Checkpoint, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Our own architecture, as its ``save_pretrained`` writes it."""
    write_weights(checkpoint, folder, shard_bytes=shard_bytes)
    _write_rest(checkpoint, folder, checkpoint.config, "AdaptVisLlavaForConditionalGeneration")


def write_llava(checkpoint: Checkpoint, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Plain LLaVA, which transformers and, with one layer of the tower, vLLM read by themselves.

    Raises:
        UnsupportedError: an option is on that plain LLaVA does not have.
    """
    config = checkpoint.config
    on = [name for name in ("normalize", "compression") if getattr(config, name)]
    if on:
        raise UnsupportedError(
            f"Plain LLaVA has no {' and no '.join(on)}, which {checkpoint.source} was made with; "
            "keep it as it is (--to adaptvis), adaptvis and vLLM with adaptvis serve it"
        )
    ours = {"normalize", "target_mean", "max_norm", "norm_eps", "compression", "original"}
    values = {k: v for k, v in config.to_dict().items() if k not in (*_NOT_CONFIGURATION, *ours)}
    write_weights(checkpoint, folder, shard_bytes=shard_bytes)
    plain = LlavaConfig.from_dict(values)
    _write_rest(checkpoint, folder, plain, "LlavaForConditionalGeneration")


def _write_rest(checkpoint: Checkpoint, folder: Path, config: Any, architecture: str) -> None:
    values = config.to_dict()
    values["architectures"] = [architecture]
    values.pop("_name_or_path", None)
    decoder = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.text_config.model_type)
    if decoder is not None:
        values["text_config"]["architectures"] = [decoder]
    for part in ("text_config", "vision_config"):
        values[part].pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")
    if checkpoint.generation_config is not None:
        checkpoint.generation_config.save_pretrained(folder)
    checkpoint.processor.save_pretrained(folder)
