"""One real server, many clients."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI
from prometheus_client.parser import text_string_to_metric_families
from transformers import AutoModelForImageTextToText, AutoProcessor

import adaptvis
from adaptvis import ScalingVis
from adaptvis.cli.models import embedded_models
from adaptvis.data.two_ds import two_ds_samples

from .server import ADAPTVIS_SERVE, PLAIN_VLLM, Server

MODEL = "tiny-2ds-shortcut-seed1"
KEY = "secret"
DEFAULT_ALPHA = 3.0
ENGINE = (
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "128"),
    # Blocks smaller than a prompt, so that the prefix cache has something to share.
    *("--max-num-seqs", "32", "--block-size", "32", "--num-gpu-blocks-override", "512"),
)
TOKENS = 6
OFF = {"adaptvis": "off"}
# Every question is asked in all of these ways; None leaves it to the server's default.
STEERINGS: tuple[dict[str, Any] | None, ...] = (
    OFF,
    None,
    {"adaptvis_alpha": 0},
    {"adaptvis_alpha": 2.0},
    {"adaptvis_alpha": 6.0, "adaptvis_layers": [1, 2, 3]},
    {"adaptvis_alpha": 2.0, "adaptvis_rows": "text_after_image"},
    {"adaptvis_alpha_low": 6.0, "adaptvis_alpha_high": 0.5, "adaptvis_threshold": 0.97},
    {"adaptvis": '{"method": "adaptvis", "alpha_low": 2.5, "threshold": 1.0}'},
)
BAD: dict[str, dict[str, Any]] = {
    "alpha": {"adaptvis_alpha": "much"},
    "adaptvis_alpa": {"adaptvis_alpa": 2},
    "threshold": {"adaptvis_threshold": 2},
    "layers": {"adaptvis_alpha": 2, "adaptvis_layers": [9]},
    "rows": {"adaptvis_alpha": 2, "adaptvis_rows": "all"},
    "adaptvis": {"adaptvis": "{"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    options = ("--alpha", str(DEFAULT_ALPHA), "--decisions", "--api-key", KEY)
    with Server(*ADAPTVIS_SERVE, MODEL, *options, *ENGINE, log=log) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def prompts() -> list[list[dict[str, Any]]]:
    """Seven questions about images, and one without."""
    samples = list(two_ds_samples(images_per_count=3))[:7]
    return [_content(_url(s.image), s.question) for s in samples] + [
        [{"type": "text", "text": "Where is the red object?"}]
    ]


def _url(image: Any) -> str:
    content = io.BytesIO()
    image.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _content(url: str, question: str) -> list[dict[str, Any]]:
    return [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": question},
    ]


def _request(
    content: list[dict[str, Any]], steering: Mapping[str, Any] | None, **options: Any
) -> dict[str, Any]:
    body: dict[str, Any] = {"ignore_eos": True, "return_token_ids": True}
    if steering is not None:
        body["vllm_xargs"] = steering
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "extra_body": body,
        **options,
    }


def _tokens(choice: Any) -> list[int]:
    return list(choice.model_extra.get("token_ids") or ())


def ask(client: OpenAI, *arguments: Any, **options: Any) -> tuple[str, list[int]]:
    """Id and tokens of one answer."""
    answer = client.chat.completions.create(**_request(*arguments, **options))
    return answer.id, _tokens(answer.choices[0])


async def stream(client: AsyncOpenAI, *arguments: Any) -> tuple[str, list[int]]:
    """The same, in pieces."""
    request_id, tokens = "", []
    chunks = await client.chat.completions.create(**_request(*arguments, stream=True))
    async for chunk in chunks:
        request_id = chunk.id
        tokens += [token for choice in chunk.choices for token in _tokens(choice)]
    return request_id, tokens


def decision(server: Server, request_id: str) -> dict[str, Any]:
    found = httpx.get(
        f"{server.url}/adaptvis/decisions/{request_id}", headers={"Authorization": f"Bearer {KEY}"}
    )
    assert found.status_code == 200, found.text
    values: dict[str, Any] = found.json()
    assert values.keys() == {"request_id", "confidence", "alpha", "applied", "reason"}
    assert values["request_id"] == request_id
    return values


def metrics(server: Server) -> dict[str, float]:
    """Every sample of /metrics; those of adaptvis by branch or bound."""
    text = httpx.get(f"{server.url}/metrics").text
    return {
        sample.name + "".join(sample.labels.get(label, "") for label in ("branch", "le")): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def steering_metrics(server: Server) -> dict[str, float]:
    return {
        name.removeprefix("adaptvis_"): value
        for name, value in metrics(server).items()
        if name.startswith("adaptvis_")
    }


def wait_until_idle(server: Server) -> None:
    for _ in range(300):
        now = metrics(server)
        if now["vllm:num_requests_running"] == now["vllm:num_requests_waiting"] == 0:
            return
        time.sleep(0.1)
    pytest.fail("requests are still running")


def test_the_server_listens_on_loopback_only(server: Server) -> None:
    assert httpx.get(f"{server.url}/health").status_code == 200
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, port = local.split(":")
            if state == "0A" and int(port, 16) == server.port:
                listening.append(address)
    assert listening == ["0100007F"]


def test_a_default_applies_and_a_request_overrides_it(
    server: Server, client: OpenAI, prompts: list[Any]
) -> None:
    by_default, explicit, off = (
        ask(client, prompts[0], steering)
        for steering in (None, {"adaptvis_alpha": DEFAULT_ALPHA}, OFF)
    )
    assert by_default[1] == explicit[1] != off[1]
    assert decision(server, by_default[0])["alpha"] == DEFAULT_ALPHA
    unsteered = decision(server, off[0])
    assert (unsteered["applied"], unsteered["reason"]) == (False, "steering is off")


@pytest.mark.parametrize("alpha", [None, 0.0, 2.0])
def test_a_served_answer_is_that_of_transformers(client: OpenAI, alpha: float | None) -> None:
    folder = str(embedded_models()[MODEL])
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="float32").eval()
    sample = next(s for s in two_ds_samples(images_per_count=2) if "relation" in s.question)
    inputs = processor(
        images=sample.image,
        text=f"USER: <image>\n{sample.question} ASSISTANT:",
        return_tensors="pt",
    )
    steer = nullcontext() if alpha is None else adaptvis.steer(model, ScalingVis(alpha=alpha))
    with steer:
        output = model.generate(
            **inputs,
            max_new_tokens=TOKENS,
            min_new_tokens=TOKENS,
            do_sample=False,
            eos_token_id=None,
            output_logits=True,
            return_dict_in_generate=True,
        )
    expected = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()

    request = _request(
        _content(_url(sample.image), sample.question),
        OFF if alpha is None else {"adaptvis_alpha": alpha},
    )
    # LLaVA's chat template leaves out the first token of a prompt.
    request["extra_body"]["add_special_tokens"] = True
    answer = client.chat.completions.create(**request, logprobs=True)
    assert answer.usage.prompt_tokens == inputs["input_ids"].shape[1]
    assert _tokens(answer.choices[0]) == expected
    served = [token.logprob for token in answer.choices[0].logprobs.content]
    logits = [step[0].float().log_softmax(-1) for step in output.logits]
    own = [float(step[token]) for step, token in zip(logits, expected, strict=True)]
    assert served == pytest.approx(own, abs=1e-4)


def test_64_streaming_clients_get_what_they_get_alone_while_bad_requests_are_refused(
    server: Server, client: OpenAI, prompts: list[Any]
) -> None:
    requests = [(prompt, steering) for steering in STEERINGS for prompt in prompts]
    assert len(requests) == 64

    async def together() -> list[Any]:
        async with AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key=KEY, max_retries=0
        ) as everybody:
            create = everybody.chat.completions.create
            bad = [create(**_request(prompts[0], steering)) for steering in BAD.values()]
            good = [stream(everybody, *request) for request in requests]
            return await asyncio.gather(*good, *bad, return_exceptions=True)

    answers = asyncio.run(together())
    good, bad = answers[: len(requests)], answers[len(requests) :]
    for (field, steering), problem in zip(BAD.items(), bad, strict=True):
        assert isinstance(problem, BadRequestError), (steering, problem)
        assert field in problem.body["message"]
        assert problem.body["param"] == "adaptvis"

    alone = [ask(client, *request) for request in requests]
    for request, one, other in zip(requests, good, alone, strict=True):
        assert not isinstance(one, BaseException), one
        assert len(one[1]) == TOKENS
        assert one[1] == other[1], request

    by_steering = [good[i : i + len(prompts)] for i in range(0, len(good), len(prompts))]
    unsteered = by_steering[0]
    for steering, group in zip(STEERINGS[1:], by_steering[1:], strict=True):
        assert group[-1][1] == unsteered[-1][1], "a prompt without an image was steered"
        changed = sum(
            one[1] != other[1] for one, other in zip(group[:-1], unsteered[:-1], strict=True)
        )
        assert changed, f"{steering} changed no answer"

    found = [[decision(server, request_id) for request_id, _ in group] for group in by_steering]
    for group in found[1:]:
        assert not group[-1]["applied"]
        assert group[-1]["reason"] == "the prompt has no image tokens"
        assert all(one["applied"] and one["reason"] == "" for one in group[:-1])
    for group, alpha in zip(found[1:6], (DEFAULT_ALPHA, 0, 2, 6, 2), strict=True):
        assert [one["alpha"] for one in group[:-1]] == [alpha] * 7
    low_or_high = [6.0 if one["confidence"] < 0.97 else 0.5 for one in found[6][:-1]]
    assert [one["alpha"] for one in found[6][:-1]] == low_or_high
    assert set(low_or_high) == {6.0, 0.5}, "both branches should be taken"
    assert [one["alpha"] for one in found[7][:-1]] == [2.5] * 7
    for group in found[2:]:
        assert [one["confidence"] for one in group[:-1]] == pytest.approx(
            [one["confidence"] for one in found[1][:-1]], abs=1e-5
        )


def test_a_bad_streaming_request_is_refused_before_its_stream_begins(
    client: OpenAI, prompts: list[Any]
) -> None:
    for field, steering in BAD.items():
        with pytest.raises(BadRequestError, match=field):
            list(client.chat.completions.create(**_request(prompts[0], steering, stream=True)))


@pytest.mark.parametrize("field", BAD)
def test_the_completion_api_refuses_bad_parameters_by_name(client: OpenAI, field: str) -> None:
    with pytest.raises(BadRequestError, match=field):
        client.completions.create(
            model=MODEL, prompt="where is it", extra_body={"vllm_xargs": BAD[field]}
        )


def test_metrics_count_every_branch(server: Server, client: OpenAI, prompts: list[Any]) -> None:
    def adaptvis(threshold: float) -> dict[str, Any]:
        return {"adaptvis_alpha_low": 2.0, "adaptvis_threshold": threshold}

    before = steering_metrics(server)
    steerings = [OFF, {"adaptvis_alpha": 2.0}, None, adaptvis(0), adaptvis(0), adaptvis(1)]
    ids = [ask(client, prompts[1], steering)[0] for steering in steerings]
    ids.append(ask(client, prompts[-1], {"adaptvis_alpha": 2.0})[0])
    after = steering_metrics(server)
    change = {name: after[name] - before[name] for name in after}
    expected = {"scalingvis": 2, "adaptvis_high": 2, "adaptvis_low": 1, "passed_through": 2}
    for branch, count in expected.items():
        assert change[f"requests_total{branch}"] == count, branch
    confidences = [c for i in ids if (c := decision(server, i)["confidence"]) is not None]
    assert len(confidences) == 5
    assert change["confidence_count"] == change["confidence_bucket+Inf"] == 5
    assert change["confidence_sum"] == pytest.approx(sum(confidences))
    for bound in range(1, 10):
        below = sum(c <= bound / 10 for c in confidences)
        assert change[f"confidence_bucket{bound / 10}"] == below


def test_the_endpoint_knows_the_ids_that_clients_see(
    server: Server, client: OpenAI, prompts: list[Any]
) -> None:
    several = client.completions.create(
        model=MODEL, prompt=["where is it", "what is it"], max_tokens=2
    )
    for request_id in (several.id, f"{several.id}-1"):
        assert decision(server, request_id)["reason"] == "the prompt has no image tokens"
    steered = {"adaptvis_alpha": 2.0}
    samples = client.chat.completions.create(
        **(_request(prompts[0], steered) | {"n": 3, "temperature": 1.0})
    )
    assert len(samples.choices) == 3
    assert decision(server, samples.id)["alpha"] == 2
    named = client.chat.completions.create(
        **_request(prompts[0], steered), extra_headers={"X-Request-Id": "a/b"}
    )
    assert named.id == "chatcmpl-a/b"
    assert decision(server, named.id)["alpha"] == 2
    response = client.responses.create(
        model=MODEL, input="where is it", max_output_tokens=2, extra_body={"vllm_xargs": steered}
    )
    assert decision(server, response.id)["reason"] == "the prompt has no image tokens"

    url = f"{server.url}/adaptvis/decisions"
    assert httpx.get(f"{url}/{several.id}").status_code == 401
    unknown = httpx.get(f"{url}/cmpl-unknown", headers={"Authorization": f"Bearer {KEY}"})
    assert unknown.status_code == 404
    assert "'cmpl-unknown'" in unknown.json()["error"]["message"]


def test_clients_that_go_away_leave_nothing_behind(
    server: Server, client: OpenAI, prompts: list[Any]
) -> None:
    steered = {"adaptvis_alpha": 6.0}
    before, counted = ask(client, prompts[0], steered)[1], steering_metrics(server)
    long = {"max_tokens": 50, "stream": True}

    async def leave() -> list[str]:
        async with AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key=KEY, max_retries=0
        ) as everybody:

            async def after_the_first_token() -> str:
                chunks = await everybody.chat.completions.create(
                    **_request(prompts[0], steered, **long)
                )
                async for chunk in chunks:
                    if chunk.choices and _tokens(chunk.choices[0]):
                        await chunks.close()
                        return str(chunk.id)
                raise AssertionError("no token came")

            seen = [asyncio.create_task(after_the_first_token()) for _ in range(12)]
            unseen = [
                asyncio.create_task(stream(everybody, prompts[1], steered)) for _ in range(12)
            ]
            ids = await asyncio.gather(*seen)
            for task in unseen:
                task.cancel()
            await asyncio.gather(*unseen, return_exceptions=True)
            return ids

    ids = asyncio.run(leave())
    wait_until_idle(server)
    assert [decision(server, request_id)["alpha"] for request_id in ids] == [6] * 12
    change = steering_metrics(server)["requests_totalscalingvis"]
    assert 12 <= change - counted["requests_totalscalingvis"] <= 24
    assert metrics(server)["vllm:kv_cache_usage_perc"] == 0
    assert ask(client, prompts[0], steered)[1] == before


def test_logprobs_show_the_steered_and_the_unsteered_model(
    server: Server, client: OpenAI, prompts: list[Any]
) -> None:
    def first(steering: dict[str, Any]) -> tuple[str, float]:
        answer = client.chat.completions.create(
            **_request(prompts[0], steering), logprobs=True, top_logprobs=1
        )
        return answer.id, answer.choices[0].logprobs.content[0].top_logprobs[0].logprob

    _, unsteered = first(OFF)
    request_id, steered = first({"adaptvis_alpha": 2.0})
    assert math.exp(unsteered) == pytest.approx(decision(server, request_id)["confidence"])
    assert abs(steered - unsteered) > 1e-3


def test_a_follow_up_does_not_read_the_cache_of_a_turn_with_other_steering(
    client: OpenAI, prompts: list[Any]
) -> None:
    turn = {"role": "user", "content": prompts[0]}
    steered = client.chat.completions.create(**_request(prompts[0], {"adaptvis_alpha": 6.0}))
    # The prompt's last token is the last but one of a block, which one answer token completes.
    assert steered.usage.prompt_tokens % 32 == 31
    talk = [
        turn,
        {"role": "assistant", "content": steered.choices[0].message.content},
        {"role": "user", "content": "Where is the red object?"},
    ]

    def logprobs(**more: Any) -> list[float]:
        request = _request(prompts[0], OFF) | {"messages": talk}
        request["extra_body"] |= more
        answer = client.chat.completions.create(**request, logprobs=True)
        return [token.logprob for token in answer.choices[0].logprobs.content]

    shared = logprobs()
    assert shared == pytest.approx(logprobs(cache_salt="a cache of its own"), abs=1e-4)


def test_structured_output_constrains_steered_answers(client: OpenAI, prompts: list[Any]) -> None:
    request = _request(prompts[0], {"adaptvis_alpha": 6.0})
    free = client.chat.completions.create(**request)
    request["extra_body"] |= {"structured_outputs": {"choice": ["left", "right"]}}
    request["extra_body"]["ignore_eos"] = False
    bound = client.chat.completions.create(**request)
    assert free.choices[0].message.content.strip() not in ("left", "right")
    assert bound.choices[0].message.content.strip() in ("left", "right")


def test_metrics_outlive_an_engine_that_does_not_answer() -> None:
    from adaptvis.vllm.metrics import SteeringCollector

    class Engine:
        def __init__(self) -> None:
            self.answers = [{"counts": {"scalingvis": 3}, "histogram": [0] * 9 + [3]}]

        async def collective_rpc(self, method: str) -> list[dict[str, Any]]:
            if self.answers:
                return [self.answers.pop() | {"confidence_sum": 2.5}]
            raise RuntimeError("the engine is dead")

    async def scrape_twice() -> list[list[Any]]:
        engine, collector = Engine(), SteeringCollector()
        collector.follow(engine, asyncio.get_running_loop())
        # As the server does, in a thread; and then in the loop itself, which must not be blocked.
        first, second = [
            await asyncio.to_thread(lambda: list(collector.collect())) for _ in range(2)
        ]
        return [first, second, list(collector.collect())]

    first, *others = asyncio.run(scrape_twice())
    assert [sample.value for sample in first[0].samples] == [3]
    assert all(other == first for other in others)


def test_plain_vllm_starts_on_the_port_of_a_stopped_server_and_steers(
    server: Server, client: OpenAI, prompts: list[Any], tmp_path: Path
) -> None:
    expected = ask(client, prompts[0], None)[1]
    server.stop()
    assert server.members() == []
    additional = json.dumps({"adaptvis": {"method": "scalingvis", "alpha": DEFAULT_ALPHA}})
    folder = embedded_models()[MODEL]
    plain = (*PLAIN_VLLM, "--model", str(folder), "--served-model-name", MODEL)
    options = ("--host", "127.0.0.1", "--additional-config", additional)
    with Server(*plain, *options, *ENGINE, log=tmp_path / "log", port=server.port) as again:
        request_id, tokens = ask(client, prompts[0], None)
        assert tokens == expected
        assert steering_metrics(again)["requests_totalscalingvis"] == 1
        off = httpx.get(f"{again.url}/adaptvis/decisions/{request_id}")
        assert off.status_code == 404, "the endpoint was not asked for"
