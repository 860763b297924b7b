"""A wrong request is HTTP 400 and says what to do, and no other request notices it."""

from __future__ import annotations

import asyncio
import base64
import io
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from .server import ADAPTVIS_SERVE, Server

MODEL = "tiny-2ds-shortcut-seed1"
ENGINE = (
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "256"),
    *("--max-num-seqs", "32", "--block-size", "32", "--num-gpu-blocks-override", "512"),
)
QUESTION = "Where is the red object?"
GOOD = {"adaptvis_alpha": 2.0}
TWO_IMAGES = {"adaptvis_alpha": 2.0, "adaptvis_rows": "text_after_image"}
TOKENS = 6

Body = dict[str, Any]
_seeds = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    with Server(*ADAPTVIS_SERVE, MODEL, *ENGINE, log=log) as running:
        yield running


def new_image() -> str:
    """Base64 of a PNG that the server has not seen."""
    pixels = np.random.default_rng(next(_seeds)).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def _chat_content(images: tuple[str, ...]) -> list[Body]:
    return [
        *(
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
            for image in images
        ),
        {"type": "text", "text": QUESTION},
    ]


def chat(*images: str, **more: Any) -> tuple[str, Body]:
    messages = [{"role": "user", "content": _chat_content(images)}]
    body = {"temperature": 0, "max_tokens": TOKENS, "messages": messages}
    body |= {"ignore_eos": True, "return_token_ids": True}
    return "/v1/chat/completions", body | more


def two_samples(*images: str, **more: Any) -> tuple[str, Body]:
    return chat(*images, n=2, temperature=1, **more)


def streamed_chat(*images: str, **more: Any) -> tuple[str, Body]:
    return chat(*images, stream=True, **more)


def several_chats(*images: str, **more: Any) -> tuple[str, Body]:
    path, body = chat(*images, **more)
    return f"{path}/batch", body | {"messages": [body["messages"]] * 2}


def responses(*images: str, **more: Any) -> tuple[str, Body]:
    shown = [
        {"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{image}"}
        for image in images
    ]
    content = [*shown, {"type": "input_text", "text": QUESTION}]
    body: Body = {"temperature": 0, "max_output_tokens": TOKENS}
    return "/v1/responses", body | {"input": [{"role": "user", "content": content}]} | more


def streamed_responses(*images: str, **more: Any) -> tuple[str, Body]:
    return responses(*images, stream=True, **more)


def anthropic_messages(*images: str, **more: Any) -> tuple[str, Body]:
    shown = [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": image},
        }
        for image in images
    ]
    content = [*shown, {"type": "text", "text": QUESTION}]
    body: Body = {"max_tokens": TOKENS, "temperature": 0}
    return "/v1/messages", body | {"messages": [{"role": "user", "content": content}]} | more


def completion(*_: str, **more: Any) -> tuple[str, Body]:
    return "/v1/completions", {"prompt": QUESTION, "max_tokens": TOKENS, "temperature": 0} | more


ENTRIES = (
    chat,
    two_samples,
    streamed_chat,
    several_chats,
    responses,
    streamed_responses,
    anthropic_messages,
    completion,
)
# What is wrong, and a word of the answer.
WRONG: dict[str, Body] = {
    "adaptvis_alpha": {"vllm_xargs": {"adaptvis_alpha": "nan"}},
    "adaptvis_alpa": {"vllm_xargs": {"adaptvis_alpa": 2}},
    "adaptviz_alpha": {"vllm_xargs": {"adaptviz_alpha": 2}},
    "got True": {"vllm_xargs": {"adaptvis_alpha": True}},
    "layers": {"vllm_xargs": {"adaptvis_alpha": 2, "adaptvis_layers": [9]}},
    "vllm_xargs": {"adaptvis_alpha": 3},
    "extra_body.vllm_xargs": {"extra_body": {"vllm_xargs": {"adaptvis_alpha": 3}}},
}


def is_right(answer: httpx.Response) -> bool:
    # A stream that fails on its way has answered 200.
    return answer.status_code == 200 and '"error": {' not in answer.text


def send(server: Server, request: tuple[str, Body]) -> httpx.Response:
    path, body = request
    return httpx.post(
        server.url + path,
        content=json.dumps({"model": MODEL, **body}),
        headers={"Content-Type": "application/json"},
        timeout=120,
    )


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
def test_a_refused_request_leaves_its_image_to_the_next(
    server: Server, entry: Callable[..., tuple[str, Body]]
) -> None:
    for name, wrong in WRONG.items():
        image = new_image()
        for _ in range(2):
            refused = send(server, entry(image, **wrong))
            assert refused.status_code == 400, (name, refused.text)
            assert name in refused.text
            assert "\n" not in refused.json()["error"]["message"]
            assert is_right(send(server, entry(image, vllm_xargs=GOOD))), name


@pytest.mark.parametrize(
    "entry",
    [entry for entry in ENTRIES if entry is not completion],
    ids=lambda entry: entry.__name__,
)
def test_what_only_the_processed_prompt_tells_is_refused_without_a_trace(
    server: Server, entry: Callable[..., tuple[str, Body]]
) -> None:
    images = new_image(), new_image()
    for image in images:
        refused = send(server, entry(*images, vllm_xargs=TWO_IMAGES))
        assert refused.status_code == 400, refused.text
        assert "one unbroken run of image tokens, got 2" in refused.text
        assert is_right(send(server, entry(image, vllm_xargs=TWO_IMAGES)))


def test_beams_are_refused_without_a_trace(server: Server) -> None:
    image = new_image()
    for _ in range(2):
        refused = send(server, chat(image, use_beam_search=True, vllm_xargs=GOOD))
        assert refused.status_code == 400
        assert "Beam search" in refused.text
        plain = chat(image, use_beam_search=True, vllm_xargs={"adaptvis": "OFF"})
        assert is_right(send(server, plain))


@pytest.mark.parametrize(
    "wrong", [{"logit_bias": {"99999999": 1}}, {"structured_outputs": {"json": "{{"}}]
)
def test_what_vllm_refuses_leaves_its_image_to_the_next(server: Server, wrong: Body) -> None:
    image = new_image()
    for _ in range(2):
        assert send(server, chat(image, **wrong)).status_code == 400
        assert is_right(send(server, chat(image, vllm_xargs=GOOD)))


def test_clients_that_leave_take_no_image_with_them(server: Server) -> None:
    images = [new_image() for _ in range(12)]

    async def leave() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            asked = [
                asyncio.create_task(client.post(path, json={"model": MODEL, **body}))
                for image in images
                for path, body in (chat(image), streamed_chat(image))
            ]
            # In the middle of processing one image after the other.
            await asyncio.sleep(0.05)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    asyncio.run(leave())
    assert all(is_right(send(server, chat(image, vllm_xargs=GOOD))) for image in images)


def test_right_answers_do_not_depend_on_wrong_requests_beside_them(server: Server) -> None:
    """64 clients at once with 16 new images; 22 of them are wrong, in all ways at all entries."""
    mistakes = itertools.cycle([*WRONG.items(), ("got 2", {"vllm_xargs": TWO_IMAGES})])
    # Without completions, which show no image.
    entries = itertools.cycle(ENTRIES[:-1])
    steerings = (GOOD, {"adaptvis": "off"}, TWO_IMAGES)
    clients: list[tuple[str, tuple[str, Body]]] = []
    for index in range(16):
        image = new_image()
        several = 2 if index < 6 else 1
        for word, more in itertools.islice(mistakes, several):
            shown = [image, new_image()] if word == "got 2" else [image]
            clients.append((word, next(entries)(*shown, **more)))
        for steering in steerings[: 4 - several]:
            clients.append(("", chat(image, vllm_xargs=steering)))
    assert (len(clients), sum(bool(word) for word, _ in clients)) == (64, 22)

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(
            base_url=server.url, timeout=300, limits=httpx.Limits(max_connections=64)
        ) as client:
            return await asyncio.gather(
                *(client.post(path, json={"model": MODEL, **body}) for _, (path, body) in clients)
            )

    for (word, (path, body)), answer in zip(clients, asyncio.run(ask()), strict=True):
        if word:
            assert answer.status_code == 400, answer.text
            assert word in answer.text
        else:
            assert answer.status_code == 200, answer.text
            alone = send(server, (path, body | {"cache_salt": "alone"}))
            assert tokens(answer) == tokens(alone)


def tokens(answer: httpx.Response) -> list[int]:
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    assert len(found) == TOKENS
    return found


def test_fields_of_others_are_let_through(server: Server) -> None:
    others = {"my_alpha": 1, "adapter": "x", "adaptive_top_p": 0.5, "scaling": 2, "session_id": "1"}
    request = chat(new_image(), vllm_xargs=GOOD | others, guided_alpha=1, metadata={"alpha": "1"})
    assert is_right(send(server, request))


def test_the_log_has_no_lost_image(server: Server) -> None:
    assert "drift" not in Path(server.log).read_text(errors="replace")
