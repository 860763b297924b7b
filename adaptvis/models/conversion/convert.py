"""One checkpoint in, one out: which layout it has, what is asked for, and writing it whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download

from adaptvis.errors import ConfigError, UnsupportedError, unknown_name
from adaptvis.models.conversion.checkpoint import Checkpoint
from adaptvis.models.conversion.files import SHARD_BYTES, new_folder
from adaptvis.models.conversion.hub import read_hub, write_adaptvis, write_llava
from adaptvis.models.conversion.options import with_options
from adaptvis.models.conversion.read_original import is_original, read_original
from adaptvis.models.conversion.write_original import write_original
from adaptvis.models.locating import embedded_models, require_place
from adaptvis.models.sources import LLAVA_TYPES, read_config, readable

__all__ = ["TARGETS", "convert"]

TARGETS = ("adaptvis", "llava", "original")
_FILES = ["*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja"]


def convert(
    source: str | Path,
    output: str | Path,
    *,
    to: str = "adaptvis",
    vision_tower: str | Path | None = None,
    language_model: str | Path | None = None,
    normalize: bool = False,
    target_mean: float | None = None,
    max_norm: float | None = None,
    vision_feature_layers: int | Sequence[int] | None = None,
    compression: int | None = None,
    new_projector: bool = False,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Convert a LLaVA checkpoint; no weight changes unless an option asks for it.

    Args:
        source: folder or hub id: LLaVA-1.5 as transformers writes it, our own architecture, or
            LLaVA's own code (a whole model, or stage 1's ``mm_projector.bin``).
        output: a folder that is not there yet, or is empty.
        to: "adaptvis", "llava" or "original".
        vision_tower: folder or hub id of the CLIP checkpoint of a source of LLaVA's own code; with
            ``to="original"`` of any other source, the name to write for it.
        language_model: folder or hub id of the base model of a stage 1 projector.
        normalize, target_mean, max_norm, vision_feature_layers, compression: options to switch on;
            see :func:`adaptvis.models.assemble`.
        new_projector: allow a fresh projector, drawn from ``seed``, which other layers need.
        shard_bytes: largest size of a file of weights; the memory needed is about twice that.

    Returns:
        ``output``.

    Raises:
        CheckpointError, ConfigError, UnsupportedError, OutputError: one sentence each.
    """
    if to not in TARGETS:
        raise ConfigError(unknown_name("layout", to, TARGETS))
    output = Path(output).expanduser()
    with new_folder(output) as part:
        folder = _local(source)
        own_code = is_original(folder)
        checkpoint = _read(folder, own_code, vision_tower, language_model, to)
        checkpoint = with_options(
            checkpoint,
            normalize=normalize,
            target_mean=target_mean,
            max_norm=max_norm,
            vision_feature_layers=vision_feature_layers,
            compression=compression,
            new_projector=new_projector,
            seed=seed,
        )
        if to == "adaptvis":
            write_adaptvis(checkpoint, part, shard_bytes)
        elif to == "llava":
            write_llava(checkpoint, part, shard_bytes)
        else:
            name = None if own_code or vision_tower is None else str(vision_tower)
            write_original(checkpoint, part, vision_tower=name, shard_bytes=shard_bytes)
    return output


def _read(
    folder: Path,
    own_code: bool,
    vision_tower: str | Path | None,
    language_model: str | Path | None,
    to: str,
) -> Checkpoint:
    if own_code:
        tower = None if vision_tower is None else _local(vision_tower)
        base = None if language_model is None else _local(language_model)
        return read_original(folder, tower, base)
    if vision_tower is not None and to != "original":
        raise ConfigError(
            f"{folder} has its own vision tower; --vision-tower goes with a source of LLaVA's own "
            "code, or names the tower for --to original"
        )
    if language_model is not None:
        raise ConfigError(
            f"{folder} has its own language model; --language-model goes with a projector alone "
            "(mm_projector.bin)"
        )
    kind = read_config(folder).model_type
    if kind not in LLAVA_TYPES:
        raise UnsupportedError(
            f"{folder} is a {kind!r} model; LLaVA-1.5 can be converted, and a new LLaVA is put "
            "together from a language model and a vision tower by adaptvis train"
        )
    return read_hub(folder)


def _local(source: str | Path) -> Path:
    """The folder, an embedded model's, or that of a hub id, downloaded where it is not yet.

    Raises:
        CheckpointError: there is neither.
    """
    folder = Path(embedded_models().get(str(source), source)).expanduser()
    require_place(folder)
    if folder.is_dir():
        return folder
    with readable("a checkpoint", source):
        return Path(snapshot_download(str(source), allow_patterns=_FILES))
