"""A real server in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

__all__ = ["ADAPTVIS_SERVE", "PLAIN_VLLM", "Server", "free_port"]

ADAPTVIS_SERVE = (sys.executable, "-m", "adaptvis", "serve")
PLAIN_VLLM = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")

_START_SECONDS = 300
_STOP_SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A command with ``--port``; a context manager that leaves no process behind.

    log: where the server writes.
    """

    def __init__(self, *command: str, log: Path, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self._command = [*command, "--port", str(self.port)]

    def __enter__(self) -> Server:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("VLLM_")}
        environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "INFO"}
        with self.log.open("w") as output:
            # A group of its own, so that the engine's process can be ended with it.
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Not in the source tree, whose *.egg-info may know other entry points.
                cwd=self.log.parent,
                env=environment,
                start_new_session=True,
            )
        try:
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def tail(self) -> str:
        """The end of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-60:])

    def stop(self) -> int:
        """Ask the server to end, and see that all of its processes have; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if self.members():
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            # A killed process is there until the kernel has cleared it away.
            until = time.monotonic() + _STOP_SECONDS
            while self.members() and time.monotonic() < until:
                time.sleep(0.1)
        return self.process.returncode

    def members(self) -> list[int]:
        """Running processes of the server's group."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue
            state, _, group = fields[:3]
            if int(group) == self.process.pid and state != "Z":
                found.append(int(entry.name))
        return found

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"The server ended while it started:\n{self.tail()}")
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.2)
        raise RuntimeError(f"The server did not start in time:\n{self.tail()}")
