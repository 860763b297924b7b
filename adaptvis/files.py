"""Files that are whole or not there."""

import os
import tempfile
from pathlib import Path

__all__ = ["replace_whole"]


def replace_whole(path: Path, content: bytes) -> None:
    """Write a whole file, or leave what was there.

    Raises:
        OSError: the folder is not there, not writable or full.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
