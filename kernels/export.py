"""Assemble a repository for Hugging Face's kernel hub: ``python kernels/export.py OUTPUT``.

OUTPUT gets

    README.md, LICENSE        the card and the license
    build/torch-cuda          what the library ``kernels`` loads, a folder per backend: the package
    build/torch-rocm          flattened, metadata.json, a folder for older versions of the library
    build.toml, flake.nix     a source tree for kernel-builder, which wants the package in torch-ext
    torch-ext/adaptvis_kernels

Nothing is compiled: Triton does that on the user's device. The identifier of a variant is a hash of
its files, so equal sources export equal repositories.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["BACKENDS", "NAME", "VERSION", "export"]

NAME = "adaptvis-kernels"
MODULE = NAME.replace("-", "_")
# By the hub's convention 0 is a version whose interface may still change.
VERSION = 0
LICENSE = "apache-2.0"
BACKENDS = ("cuda", "rocm")

_HERE = Path(__file__).resolve().parent
_BUILD_TOML = f"""\
[general]
name = "{NAME}"
version = {VERSION}
edition = 5
license = "{LICENSE}"
backends = [{", ".join(f'"{backend}"' for backend in BACKENDS)}]

[torch-noarch]
pyext = ["json", "py"]
"""
_FLAKE = f"""\
{{
  description = "Flake for {NAME}";
  inputs.kernel-builder.url = "github:huggingface/kernels";
  outputs =
    {{ self, kernel-builder }}:
    kernel-builder.lib.genKernelFlakeOutputs {{
      inherit self;
      path = ./.;
    }};
}}
"""
# Before 0.11.2 the library looked for a folder of the kernel's name.
_COMPATIBILITY = f'''\
"""For older versions of the library ``kernels``: the symbols of the folder above."""

import importlib.util
import sys
from pathlib import Path

_path = Path(__file__).resolve().parent.parent / "__init__.py"
_name = "{MODULE}_%x" % (hash(_path) & 0xFFFFFFFFFFFFFFFF)
if _name not in sys.modules:
    _spec = importlib.util.spec_from_file_location(_name, _path)
    sys.modules[_name] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[_name])
__all__ = list(sys.modules[_name].__all__)
globals().update({{name: getattr(sys.modules[_name], name) for name in __all__}})
'''


def export(output: Path) -> None:
    """Write the repository to ``output``, whole or not at all.

    Raises:
        FileExistsError: ``output`` exists and is not an empty folder.
    """
    output = output.absolute()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} exists and is not an empty folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        _assemble(staging)
        staging.chmod(0o755)
        os.rename(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _assemble(root: Path) -> None:
    package = _HERE / MODULE
    for backend in BACKENDS:
        variant = root / "build" / f"torch-{backend}"
        _copy(package, variant, {".py", ".json"})
        digests = dict(_digests(variant))
        _write(variant / MODULE / "__init__.py", _COMPATIBILITY)
        metadata = {
            "name": NAME,
            "id": f"_{MODULE}_{backend}_{_identifier(digests)}",
            "version": VERSION,
            "license": LICENSE,
            "python-depends": [],
            "backend": {"type": backend},
            "digest": {"algorithm": "sha256", "files": dict(_digests(variant))},
        }
        _write(variant / "metadata.json", json.dumps(metadata, indent=2) + "\n")
    _copy(package, root / "torch-ext" / MODULE, {".py", ".json", ".md"})
    _write(root / "build.toml", _BUILD_TOML)
    _write(root / "flake.nix", _FLAKE)
    card = (_HERE / "README.md").read_text(encoding="utf-8")
    _write(root / "README.md", card.replace(f"]({MODULE}/", f"](torch-ext/{MODULE}/"))
    shutil.copyfile(_HERE.parent / "LICENSE", root / "LICENSE")


def _copy(source: Path, target: Path, suffixes: set[str]) -> None:
    """Copy the files with these suffixes; names that start with a dot or are caches stay."""
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
        if path.is_file() and path.suffix in suffixes and not hidden:
            (target / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / relative)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file's path in the folder and its SHA-256, as metadata.json holds them."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).digest()
            yield path.relative_to(folder).as_posix(), base64.b64encode(digest).decode("ascii")


def _identifier(digests: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode("ascii")).hexdigest()[:12]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("output", type=Path, help="a folder that does not exist, or is empty")
    output = parser.parse_args(arguments).output
    try:
        export(output)
    except FileExistsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{NAME} for {' and '.join(BACKENDS)}: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
