"""Stock vLLM 0.26.0, the one for torch 2.11, without what LLaVA on one Hopper GPU does not need.

The wheel of 290 MiB becomes archives that are each small enough to be brought along: left out are
FlashAttention 2 (there is 3 on Hopper), the mixture-of-experts kernels, and the Rust front end.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["VERSION", "assemble", "prepare"]

VERSION = "0.26.0"
LEFT_OUT = ("_vllm_fa2_C", "_moe_C", "vllm/vllm-rs")
_MANIFEST = "pieces.json"
_MIB = 2**20


def prepare(
    folder: Path,
    python: str,
    limit: float,
    wheel: Path | None,
    command: Callable[[str, str, list[str]], str],
) -> int:
    """Download and strip the wheel into pieces below ``limit`` MiB in ``folder``.

    command: gives the download command of :mod:`gpu.wheels`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if wheel is None:
        wheel = next(iter(folder.glob(f"vllm-{VERSION}-*.whl")), None)
    if wheel is None:
        words = shlex.split(command(python, str(folder), [f"vllm=={VERSION}"]))
        done = subprocess.run([sys.executable, *words[1:]], check=False, stdout=sys.stderr)
        wheel = next(iter(folder.glob(f"vllm-{VERSION}-*.whl")), None)
        if done.returncode != 0 or wheel is None:
            print(f"pip could not download vllm=={VERSION}; give --vllm-wheel", file=sys.stderr)
            return 2
    pieces = strip(wheel, folder, limit)
    print(f"\n# vLLM {VERSION}, stripped:")
    for piece in pieces:
        print(f"#   {piece}: {piece.stat().st_size / _MIB:.1f} MiB")
    print(
        f"# Copy them and {folder / _MANIFEST}, then there:\n"
        f"python benchmarks/gpu/run.py --assemble {folder}\n"
        "# and take the PYTHONPATH that it prints."
    )
    return 0


def strip(wheel: Path, folder: Path, limit: float) -> list[Path]:
    """Write the pieces and their manifest."""
    with zipfile.ZipFile(wheel) as archive:
        chosen = [
            info
            for info in archive.infolist()
            if not info.is_dir() and not any(name in info.filename for name in LEFT_OUT)
        ]
        # Compressed again, a file may come out a little larger than it was.
        room = (limit - 1) * _MIB
        bins: list[list[zipfile.ZipInfo]] = []
        sizes: list[float] = []
        for info in sorted(chosen, key=lambda info: -info.compress_size):
            if info.compress_size > room:
                raise SystemExit(f"{info.filename} alone is larger than {limit} MiB")
            # Beside the contents an archive holds each name twice.
            size = info.compress_size + 2 * len(info.filename) + 150
            place = next((i for i, used in enumerate(sizes) if used + size <= room), None)
            if place is None:
                bins.append([])
                sizes.append(0)
                place = len(bins) - 1
            bins[place].append(info)
            sizes[place] += size
        pieces = []
        for index, infos in enumerate(bins, 1):
            path = folder / f"vllm-{VERSION}-part{index}of{len(bins)}.zip"
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as piece:
                for info in infos:
                    piece.writestr(info.filename, archive.read(info))
            pieces.append(path)
    digests = {path.name: _digest(path) for path in pieces}
    (folder / _MANIFEST).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    return pieces


def assemble(folder: Path) -> int:
    """Unpack the pieces in ``folder`` into its ``site``, after all of them have been verified."""
    try:
        digests = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except OSError:
        print(f"{folder} has no {_MANIFEST}: copy it beside the pieces", file=sys.stderr)
        return 2
    for name, digest in digests.items():
        if not (folder / name).is_file() or _digest(folder / name) != digest:
            print(f"{folder / name} is missing or damaged: copy it again", file=sys.stderr)
            return 2
    site = folder / "site"
    for name in digests:
        with zipfile.ZipFile(folder / name) as archive:
            archive.extractall(site)
    print(f"export PYTHONPATH={site.resolve()}:$PYTHONPATH")
    return 0


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
