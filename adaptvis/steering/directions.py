"""Files of directions: one vector per axis, in safetensors with metadata that say where from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from adaptvis.config import Amplify
from adaptvis.errors import ConfigError, OutputError, unknown_name
from adaptvis.files import replace_whole

__all__ = ["control_directions", "directions_of", "read_directions", "write_directions"]


def write_directions(
    path: str | Path, directions: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> Path:
    """Write one vector [D] per axis; the same content gives the same bytes.

    Args:
        metadata: plain values that say where the directions are from; stored as JSON.

    Raises:
        ConfigError: no vectors, of different widths, or not finite.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    vectors = {name: vector.detach().float().cpu() for name, vector in directions.items()}
    _check(vectors, path)
    content = save(
        {name: vectors[name].contiguous() for name in sorted(vectors)},
        # One entry, because safetensors writes several in any order.
        metadata={"adaptvis": json.dumps(dict(metadata), sort_keys=True)},
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(path, content)
    except OSError as error:
        raise OutputError(f"Cannot write {path}: {error.strerror}; give another folder") from None
    return path


def read_directions(path: str | Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The vectors of a file, float32 [D] by axis, in order of the axes' names.

    Args:
        sha256: of the content that is expected; None accepts any.

    Raises:
        ConfigError: the file cannot be read, holds no such vectors, or has another content.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"Cannot read the directions {path}: {error.strerror}; adaptvis diagnose probes "
            "writes such a file"
        ) from None
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ConfigError(
            f"{path} has changed since the configuration was made: its SHA-256 is {found}, "
            f"expected {sha256}; leave sha256 out to take the file as it is now"
        )
    try:
        vectors = load(content)
    except (SafetensorError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a safetensors file ({error}); adaptvis diagnose probes writes one"
        ) from None
    _check(vectors, path)
    return {name: vectors[name].float() for name in sorted(vectors)}


def directions_of(config: Amplify, width: int | None = None) -> Tensor:
    """The directions that a configuration names: float32 [K, D].

    Args:
        width: the D of the model; None accepts any.

    Raises:
        ConfigError: the file is gone or has changed, has no such axis, or is of another width.
    """
    vectors = read_directions(config.directions, config.sha256)
    for axis in config.axes or ():
        if axis not in vectors:
            raise ConfigError(unknown_name("axis", axis, vectors, f"(of {config.directions})"))
    chosen = torch.stack([vectors[axis] for axis in config.axes or vectors])
    if width is not None and chosen.shape[1] != width:
        raise ConfigError(
            f"{config.directions} holds directions of {chosen.shape[1]} numbers, but this model's "
            f"embeddings have {width}; fit directions for it with adaptvis diagnose probes"
        )
    return chosen


def control_directions(path: str | Path, seed: int = 0) -> Path:
    """Write random directions of the same number and norms beside a file of directions.

    They are the control of an amplification: isotropic, with the axes' names and norms, the same
    for the same seed. Axes with parallel directions get parallel ones only by chance.

    Returns:
        The path of the new file, ``NAME-random-SEED.safetensors``.

    Raises:
        ConfigError: the file cannot be read. OutputError: the new one cannot be written.
    """
    path = Path(path)
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for axis, vector in read_directions(path).items():
        random = torch.randn(len(vector), generator=generator)
        drawn[axis] = random / random.norm() * vector.norm()
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return write_directions(
        path.with_name(f"{path.stem}-random-{seed}.safetensors"),
        drawn,
        {"control_of": content, "seed": seed},
    )


def _check(vectors: Mapping[str, Tensor], path: Path) -> None:
    shapes = {tuple(vector.shape) for vector in vectors.values()}
    if len(shapes) != 1 or any(len(shape) != 1 for shape in shapes):
        raise ConfigError(
            f"{path} must hold one vector per axis, all of one width; it has "
            + (", ".join(f"{n} {tuple(v.shape)}" for n, v in sorted(vectors.items())[:4]) or "none")
        )
    for name, vector in vectors.items():
        if not bool(torch.isfinite(vector).all()) or not bool(vector.any()):
            raise ConfigError(f"The direction {name!r} of {path} is zero or not finite")
