"""A file of lines that grows batch by batch and survives a killed process."""

import os
from pathlib import Path
from typing import IO, Self

from adaptvis.errors import OutputError

__all__ = ["LineFile"]

_BLOCK = 2**16


class LineFile:
    """A growing text file; open it once, write batches of whole lines, close it.

    A killed process leaves whole lines and at most one torn last line, which opening cuts off.
    The file is locked, so that two processes cannot resume into it.

    Raises:
        OutputError: the file cannot be opened, or another process writes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115 (closed in close())
        except OSError as error:
            raise OutputError(f"Cannot write {self.path}: {error.strerror}") from None
        try:
            self._lock()
            self._cut_torn_line()
        except BaseException:
            self._file.close()
            raise

    def write(self, text: str) -> None:
        """Write whole lines; on return they are on disk.

        Raises:
            OutputError: the disk is full, or gone.
        """
        try:
            self._file.write(text.encode("utf-8"))
            self._sync()
        except OSError as error:
            raise OutputError(
                f"Cannot write {self.path}: {error.strerror}; make room and go on with --resume"
            ) from None

    def keep(self, size: int) -> None:
        """Drop everything behind the first `size` bytes."""
        self._file.truncate(size)
        self._sync()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _cut_torn_line(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        whole = size
        while whole:
            start = max(0, whole - _BLOCK)
            self._file.seek(start)
            newline = self._file.read(whole - start).rfind(b"\n")
            if newline >= 0:
                whole = start + newline + 1
                break
            whole = start
        if whole < size:
            self.keep(whole)

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on Windows
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"Another process is writing {self.path}") from None
        except OSError:  # some network file systems have no locks
            return
