"""Offline, a refused call adds nothing, and the images it showed are fine in the next."""

from __future__ import annotations

import itertools

import pytest
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

from adaptvis import ScalingVis
from adaptvis.vllm import image_cache
from adaptvis.vllm.versions import library

from .engines import make_engine
from .tiny_llava import write_random_llava
from .workload import Request

STEERED = ScalingVis(alpha=1.8)
TEXT_ROWS = ScalingVis(alpha=1.8, rows="text_after_image")
_seeds = itertools.count(1000)


@pytest.fixture(scope="module")
def llm(tmp_path_factory):
    return make_engine(write_random_llava(tmp_path_factory.mktemp("models") / "llava"))


def new_request(images=1, config=STEERED):
    return Request(tuple(itertools.islice(_seeds, images)), ("what", "is"), config)


def refused_by_steering():
    return new_request(), SamplingParams(extra_args={"adaptvis_alpha": "nan"})


def misnamed():
    return new_request(), SamplingParams(extra_args={"adaptviz_alpha": 2.0})


def refused_for_its_images():
    request = new_request(images=2, config=TEXT_ROWS)
    return request, request.sampling()


def refused_by_vllm():
    return new_request(), SamplingParams(logit_bias={10**8: 1.0})


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize(
    "wrong", [refused_by_steering, misnamed, refused_for_its_images, refused_by_vllm]
)
def test_nothing_of_a_refused_call_is_left(llm, wrong, samples) -> None:
    good = [new_request() for _ in range(3)]
    parameters = [request.sampling() for request in good]
    if samples > 1:
        # Requests of their own inside vLLM.
        for one in parameters:
            one.n, one.temperature, one.top_k = samples, 1.0, 1
    bad, bad_parameters = wrong()
    shown = [good[0].prompt(), good[1].prompt(), bad.prompt(), good[2].prompt()]
    for _ in range(2):
        with pytest.raises(VLLMValidationError):
            llm.generate(shown, [*parameters[:2], bad_parameters, parameters[2]], use_tqdm=False)
        assert not llm.llm_engine.has_unfinished_requests()
    prompts = [request.prompt() for request in good]
    together = llm.generate(prompts, parameters, use_tqdm=False)
    assert [len(output.outputs) for output in together] == [samples] * 3
    alone = [
        llm.generate([prompt], [one], use_tqdm=False)[0]
        for prompt, one in zip(prompts, parameters, strict=True)
    ]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.prompt_token_ids == theirs.prompt_token_ids
        for one, other in zip(ours.outputs, theirs.outputs, strict=True):
            assert one.token_ids == other.token_ids
    # The image of the refused prompt is as new.
    again = Request(bad.images[-1:], bad.words, STEERED)
    assert len(llm.generate([again.prompt()], [again.sampling()], use_tqdm=False)) == 1


def test_wrong_parameters_are_refused_before_any_prompt_is_processed(llm, monkeypatch) -> None:
    processed = []
    render = type(llm)._preprocess_cmpl_one
    monkeypatch.setattr(
        type(llm), "_preprocess_cmpl_one", lambda *a, **k: processed.append(1) or render(*a, **k)
    )
    prompts = [new_request().prompt() for _ in range(2)]
    wrong = [new_request().sampling(), SamplingParams(extra_args={"adaptvis_alpha": "nan"})]
    for call in (llm.generate, llm.enqueue):
        with pytest.raises(VLLMValidationError, match="adaptvis_alpha"):
            call(prompts, wrong, use_tqdm=False)
    assert processed == []


def test_a_refused_enqueue_leaves_the_queue_as_it_was(llm) -> None:
    first, second = new_request(), new_request()
    llm.enqueue([first.prompt()], [first.sampling()], use_tqdm=False)
    bad, parameters = refused_for_its_images()
    with pytest.raises(VLLMValidationError, match="one unbroken run"):
        llm.enqueue(
            [second.prompt(), bad.prompt()], [second.sampling(), parameters], use_tqdm=False
        )
    (answer,) = llm.wait_for_completion(use_tqdm=False)
    alone = llm.generate([first.prompt()], [first.sampling()], use_tqdm=False)[0]
    assert answer.outputs[0].token_ids == alone.outputs[0].token_ids


def test_an_image_that_was_processed_and_never_sent_is_sent_with_the_next_request(llm) -> None:
    request = new_request()
    for _ in range(2):
        llm._preprocess_cmpl_one(request.prompt())
    first, second = (
        llm.generate([request.prompt()], [request.sampling()], use_tqdm=False)[0] for _ in range(2)
    )
    assert first.outputs[0].token_ids == second.outputs[0].token_ids
    twice = Request(request.images * 2, request.words, STEERED)
    llm._preprocess_cmpl_one(twice.prompt())
    assert llm.generate([twice.prompt()], [twice.sampling()], use_tqdm=False)


def test_an_image_that_was_sent_is_not_sent_again(llm) -> None:
    request = new_request()
    (sent,) = llm._preprocess_cmpl_one(request.prompt())["mm_kwargs"]["image"]
    assert sent is not None
    llm.generate([request.prompt()], [request.sampling()], use_tqdm=False)
    (sent,) = llm._preprocess_cmpl_one(request.prompt())["mm_kwargs"]["image"]
    assert sent is None


def test_images_of_refused_requests_are_forgotten_when_the_cache_drops_them(
    llm, monkeypatch
) -> None:
    monkeypatch.setattr(image_cache, "_FEW", 4)
    cache = library().sender_cache()(llm.llm_engine.vllm_config.model_config)
    item = llm._preprocess_cmpl_one(new_request().prompt())["mm_kwargs"]["image"][0]
    for index in range(40):
        cache.get_and_update_item((item, []), str(index))
        cache.invalidate(str(index))
    assert len(cache._adaptvis_unsent) <= 5
