"""A real OpenAI server, and clients that stream from it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import IO, Any

import httpx

from adaptvis.config import SteeringConfig
from vllm_bench.engine_process import environment
from vllm_bench.workload import Request

__all__ = ["Server", "ask_all"]

_START_SECONDS = 600


class Server:
    """vLLM's own server; a context manager that leaves no process behind."""

    def __init__(self, model: Path, *, plugin: bool, options: list[str], log: IO[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
                *("--model", str(model), "--served-model-name", "model"),
                *("--host", "127.0.0.1", "--port", str(port)),
                *("--dtype", "float32", "--enforce-eager", *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # The development mode has the calls that empty the caches.
            env=environment(plugin) | {"VLLM_SERVER_DEV_MODE": "1"},
        )

    def __enter__(self) -> Server:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                if httpx.get(f"{self.url}/health").status_code == 200:
                    return self
            except httpx.TransportError:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise SystemExit("a server did not start; its log says why")
            time.sleep(1)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def ask_all(
    server: Server,
    requests: list[Request],
    config: SteeringConfig | None,
    *,
    new_tokens: int,
    clients: int,
) -> tuple[dict[str, float], list[str]]:
    """Median time to first token and between tokens in milliseconds, and the answers."""
    for cache in ("prefix", "mm", "encoder"):
        httpx.post(f"{server.url}/reset_{cache}_cache", timeout=60).raise_for_status()
    return asyncio.run(_ask_all(server.url, requests, config, new_tokens, clients))


async def _ask_all(
    url: str,
    requests: list[Request],
    config: SteeringConfig | None,
    new_tokens: int,
    clients: int,
) -> tuple[dict[str, float], list[str]]:
    first: list[float] = []
    between: list[float] = []
    room = asyncio.Semaphore(clients)
    async with httpx.AsyncClient(timeout=600) as client:

        async def one(request: Request) -> str:
            body = _body(request, config, new_tokens)
            async with room:
                times, text = [time.perf_counter()], ""
                async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as reply:
                    reply.raise_for_status()
                    async for line in _lines(reply.aiter_bytes()):
                        if not line.startswith(b"data: {"):
                            continue
                        choices = json.loads(line.removeprefix(b"data: "))["choices"]
                        if choices and choices[0].get("token_ids"):
                            times.append(time.perf_counter())
                            text += choices[0]["delta"].get("content") or ""
            first.append(times[1] - times[0])
            between.extend(later - earlier for earlier, later in pairwise(times[1:]))
            return text

        answers = await asyncio.gather(*(one(request) for request in requests))
    measures = {"first": 1e3 * median(first)}
    if between:
        measures["between"] = 1e3 * median(between)
    return measures, list(answers)


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of a stream of events: unlike httpx's own, not cut at U+2028 inside a text."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _body(request: Request, config: SteeringConfig | None, new_tokens: int) -> dict[str, Any]:
    file = io.BytesIO()
    request.image.save(file, "PNG")
    image = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    body: dict[str, Any] = {
        "model": "model",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": image}},
                    {"type": "text", "text": request.question},
                ],
            }
        ],
        "temperature": 0,
        "max_tokens": new_tokens,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    if config is not None:
        body["vllm_xargs"] = {"adaptvis": config.to_json()}
    return body
