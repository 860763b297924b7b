"""Weights on disk: reading a folder's tensors one at a time, and writing them in shards.

At most one shard is held in memory next to the one that is read, so that a model of any size can be
converted.
"""

from __future__ import annotations

import errno
import json
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adaptvis.errors import CheckpointError, OutputError

__all__ = ["SHARD_BYTES", "ShardWriter", "TensorFolder", "new_folder"]

SHARD_BYTES = 2_000_000_000
_DAMAGED = (SafetensorError, OSError, RuntimeError, ValueError, EOFError)


class TensorFolder:
    """The tensors of a folder: safetensors, else ``.bin`` files, in shards or not.

    An index is checked where there is one and not needed. ``.bin`` files are read with torch's
    restricted unpickler (``weights_only=True``), which builds tensors and runs no code.

    Raises:
        CheckpointError: there are no weights, a shard of the index is missing, or a tensor is
            stored twice.
    """

    def __init__(self, folder: Path, stem: str = "") -> None:
        self.folder = folder
        self.files = _weight_files(folder, stem)
        self.by_name: dict[str, Path] = {}
        for path in self.files:
            for name in _names(path):
                if name in self.by_name:
                    raise CheckpointError(
                        f"The tensor {name!r} is stored twice in {folder}, in "
                        f"{self.by_name[name].name} and {path.name}; remove what is left over from "
                        "another checkpoint"
                    )
                self.by_name[name] = path

    def __contains__(self, name: object) -> bool:
        return name in self.by_name

    def __getitem__(self, name: str) -> Tensor:
        return next(tensor for _, tensor in _read(self.by_name[name], [name]))

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """All tensors, file by file."""
        for path in self.files:
            yield from _read(path, [name for name, file in self.by_name.items() if file == path])


def _weight_files(folder: Path, stem: str) -> list[Path]:
    kinds = [(f"{stem}.safetensors", f"{stem}.bin")] if stem else []
    kinds += [] if stem else [("model*.safetensors", "pytorch_model*.bin")]
    for pattern in kinds[0]:
        found = sorted(folder.glob(pattern))
        index = folder / (pattern.replace("*", "") + ".index.json")
        if index.is_file():
            try:
                wanted = set(json.loads(index.read_text())["weight_map"].values())
            except (OSError, ValueError, KeyError, AttributeError) as error:
                raise CheckpointError(f"The index {index} cannot be read: {error}") from None
            missing = wanted - {path.name for path in found}
            if missing:
                raise CheckpointError(
                    f"{folder} lacks {min(missing)}, which {index.name} names; get the missing "
                    "shards"
                )
            found = [path for path in found if path.name in wanted]
        if found:
            return found
    raise CheckpointError(
        f"{folder} holds no weights: {' or '.join(kinds[0])} is expected in a checkpoint"
    )


def _names(path: Path) -> list[str]:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return list(file.keys())
        return list(_unpickled(path))
    except _DAMAGED as error:
        raise _damaged(path, error) from None


def _read(path: Path, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for name in names:
                    yield name, file.get_tensor(name)
            return
        tensors = _unpickled(path)
    except _DAMAGED as error:
        raise _damaged(path, error) from None
    for name in names:
        yield name, tensors[name]


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        # Files of torch before 1.6 are no archives, and cannot be mapped.
        mapped = zipfile.is_zipfile(path)
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError:
        # Torch's own message advises to let the file run code.
        raise ValueError("it is damaged, or holds something else than tensors") from None
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError("it holds something else than tensors by name")
    return found


def _damaged(path: Path, error: Exception) -> CheckpointError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
    return CheckpointError(f"The weights in {path} cannot be read: {first}")


class ShardWriter:
    """Writes tensors to ``model.safetensors``, or to shards with an index where they are large."""

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.shards: list[list[str]] = []
        self._held: dict[str, Tensor] = {}
        self._bytes = self.total_bytes = 0

    def add(self, name: str, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if self._held and self._bytes + size > self.shard_bytes:
            self._flush()
        # Views of a mapped file, or of one storage, are stored on their own.
        self._held[name] = tensor.detach().clone().contiguous()
        self._bytes += size
        self.total_bytes += size

    def finish(self) -> None:
        """Write what is left, give the shards their names and write the index."""
        self._flush()
        count = len(self.shards)
        if count == 1:
            self._part(0).rename(self.folder / "model.safetensors")
            return
        places: dict[str, str] = {}
        for number, names in enumerate(self.shards):
            final = f"model-{number + 1:05}-of-{count:05}.safetensors"
            self._part(number).rename(self.folder / final)
            places |= dict.fromkeys(names, final)
        index = {"metadata": {"total_size": self.total_bytes}, "weight_map": places}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))

    def _flush(self) -> None:
        save_file(self._held, self._part(len(self.shards)), metadata={"format": "pt"})
        self.shards.append(list(self._held))
        self._held, self._bytes = {}, 0

    def _part(self, number: int) -> Path:
        return self.folder / f"shard-{number:05}.part"


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder to write to, which takes the name ``output`` only when the block succeeds.

    Raises:
        OutputError: ``output`` is a file or holds something, or the disk is full.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} exists and is not empty; give a folder that is not there yet")
    part = output.with_name(f".{output.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if output.is_dir():
            output.rmdir()
        part.rename(output)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        if full:
            raise OutputError(
                f"The disk of {output.parent.resolve()} is full; free some space, the conversion "
                "left nothing behind"
            ) from None
        raise OutputError(f"Cannot write to {output}: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
