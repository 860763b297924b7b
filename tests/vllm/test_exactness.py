"""Steering in the real engine equals steering in transformers, whatever the scheduler does."""

from __future__ import annotations

from statistics import median

import pytest
import torch
from vllm import SamplingParams

from adaptvis import AdaptVis, ScalingVis
from adaptvis.vllm import decisions, extra_args, front_end, prefix_keys, runner

from .engines import BLOCK_SIZE, make_engine, steering_of
from .tiny_llava import WORDS, write_random_llava
from .workload import Request, Transformers, compare, configs, logprobs_of, workload

TOLERANCE = 1e-4
REQUESTS = 200
# So few that running requests must give up their blocks to each other.
BLOCKS = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_llava(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture(scope="module")
def reference(folder):
    return Transformers(folder)


@pytest.fixture(scope="module")
def threshold(reference):
    """Half of the prompts are above it."""
    prompts = [Request((seed,), ("what", "is"), None, 1) for seed in range(6)]
    return median(reference.answer(prompt).logprobs[0].max().exp().item() for prompt in prompts)


@pytest.fixture(scope="module")
def requests(threshold):
    return workload(REQUESTS, threshold)


@pytest.fixture(scope="module")
def expected(reference, requests):
    with pytest.warns(UserWarning, match="no image"):
        return [reference.answer(request) for request in requests]


@pytest.fixture(scope="module")
def llm(folder):
    return make_engine(folder, num_gpu_blocks_override=BLOCKS, disable_log_stats=False)


def run(llm, requests):
    assert llm.reset_prefix_cache()
    return llm.generate(
        [request.prompt() for request in requests],
        [request.sampling() for request in requests],
        use_tqdm=False,
    )


def counter(llm, name):
    return next(m.value for m in llm.get_metrics() if m.name == f"vllm:{name}")


def wrong(outputs, expected):
    """Indices of answers that are not the expected ones."""
    checked = [compare(one, output) for one, output in zip(expected, outputs, strict=True)]
    return [index for index, (same, error) in enumerate(checked) if not same or error > TOLERANCE]


@pytest.fixture(scope="module")
def together(llm, requests):
    return run(llm, requests)


def test_two_hundred_mixed_requests_equal_transformers(llm, together, requests, expected) -> None:
    assert wrong(together, expected) == []
    # Otherwise the engine was not put to the test.
    assert counter(llm, "num_preemptions") >= 10
    assert counter(llm, "prefix_cache_hits") >= 1000
    steered = [one for one in expected if one.alpha != 1]
    assert len(steered) >= REQUESTS / 2


def test_steering_changes_the_answers(llm, requests, together) -> None:
    unsteered = [
        Request(request.images, request.words, None, request.new_tokens) for request in requests
    ]
    plain = run(llm, unsteered)
    changed = sum(
        bool((logprobs_of(a.outputs[0])[0] - logprobs_of(b.outputs[0])[0]).abs().max() > 0.01)
        for a, b in zip(plain, together, strict=True)
    )
    assert changed >= REQUESTS / 2


def test_one_by_one_equals_all_at_once(llm, requests, together) -> None:
    assert llm.reset_prefix_cache()
    for request, before in zip(requests[:80], together, strict=False):
        (alone,) = llm.generate([request.prompt()], [request.sampling()], use_tqdm=False)
        assert alone.outputs[0].token_ids == before.outputs[0].token_ids
        torch.testing.assert_close(
            logprobs_of(alone.outputs[0]),
            logprobs_of(before.outputs[0]),
            atol=TOLERANCE,
            rtol=0,
        )


def test_decisions_are_those_of_transformers(llm, requests, together, expected) -> None:
    found = decisions(llm, [output.request_id for output in together])
    branches = set()
    for request, output, one in zip(requests, together, expected, strict=True):
        decision = found[output.request_id]
        if request.config is None:
            assert decision.reason == "steering is off"
        elif not request.images:
            assert decision.reason == "the prompt has no image tokens"
        elif request.config == ScalingVis(alpha=1.0):
            assert decision.reason == "alpha is 1"
        else:
            assert decision.applied
            assert decision.confidence == pytest.approx(one.confidence, abs=TOLERANCE)
            assert decision.alpha == pytest.approx(one.alpha)
            branches.add((request.config.method, round(decision.alpha, 3)))
        assert decision.applied == (one.alpha != 1)
    assert {("adaptvis", 0.4), ("adaptvis", 2.2)} <= branches


def conversations(reference, threshold):
    """Steered first turns, and second turns that repeat them with their answers and go on."""
    turns = []
    for seed, config in enumerate(configs(threshold)):
        # A prompt that ends with its block, and one whose block its answer fills.
        for words in (14, 9):
            first = Request((seed % 6,), tuple(WORDS[:words]), config, 8)
            answer = reference.processor.tokenizer.convert_ids_to_tokens(
                reference.answer(first).token_ids
            )
            if "<image>" not in answer:
                for follow_up in (None, ScalingVis(alpha=1.3)):
                    more = (*first.words, *answer, "red")
                    turns.append((first, Request(first.images, more, follow_up, 4)))
    return turns


def wrong_second_turns(llm, reference, threshold) -> int:
    count = 0
    for first, second in conversations(reference, threshold):
        run(llm, [first])
        (output,) = llm.generate([second.prompt()], [second.sampling()], use_tqdm=False)
        assert output.num_cached_tokens >= BLOCK_SIZE
        count += len(wrong([output], [reference.answer(second)]))
    return count


def test_second_turns_share_only_what_steering_left_alone(llm, reference, threshold) -> None:
    assert wrong_second_turns(llm, reference, threshold) == 0


def test_without_the_key_the_prefix_cache_mixes_up_requests(
    llm, reference, threshold, monkeypatch
) -> None:
    monkeypatch.setattr(prefix_keys, "_key_of_request", lambda request: None)
    assert wrong_second_turns(llm, reference, threshold) >= 10


def run_rows_only_once(monkeypatch) -> None:
    """Leave out what a preempted request needs."""
    interval = runner.interval

    def only_once(progress):
        request = progress.request
        return None if request is None or request.alpha is not None else interval(progress)

    monkeypatch.setattr(runner, "interval", only_once)


def test_without_running_preempted_rows_again_answers_are_wrong(
    llm, requests, expected, monkeypatch
) -> None:
    run_rows_only_once(monkeypatch)
    assert wrong(run(llm, requests), expected)


def test_unsteered_requests_are_bit_identical_to_those_of_an_untouched_runner(
    llm, monkeypatch
) -> None:
    prompts = [Request((seed,), ("where", "is", "it"), None) for seed in range(5)]
    # Beside others that are steered.
    others = [Request((seed,), ("what",), ScalingVis(alpha=3.0)) for seed in range(3)]
    mixed = run(llm, [*prompts, *others])[: len(prompts)]
    monkeypatch.setattr(type(steering_of(llm)), "after_step", lambda self, output: None)
    plain = run(llm, [*prompts, *others])[: len(prompts)]
    for a, b in zip(mixed, plain, strict=True):
        assert torch.equal(logprobs_of(a.outputs[0]), logprobs_of(b.outputs[0]))


def test_finished_requests_leave_nothing_behind(llm, together) -> None:
    llm.generate("red", SamplingParams(max_tokens=1), use_tqdm=False)
    assert len(steering_of(llm).requests) <= 1


@pytest.mark.parametrize("rows", ["last_prompt_token", "text_after_image"])
def test_the_largest_coefficient_leaves_no_trace_in_recycled_blocks(llm, reference, rows) -> None:
    plain = Request((5,), ("where", "is", "it"), None, 4)
    largest = [
        Request((seed,), ("what", "is", "there"), ScalingVis(alpha=1000.0, rows=rows), 2)
        for seed in range(6)
    ]
    run(llm, largest)
    for _ in range(3):
        (output,) = run(llm, [plain])
        assert wrong([output], [reference.answer(plain)]) == []


def test_requests_of_one_prompt_that_resume_together_do_not_read_each_others_old_keys(llm) -> None:
    """The second finds blocks that the first fills in the same step, before they are right."""
    # 64 tokens: the block that holds the steered row is full when the first answer has begun.
    request = Request((0,), tuple(WORDS[:14]), ScalingVis(alpha=1.8), 12)
    engine = llm.llm_engine

    def both(preempt: bool):
        assert engine.reset_prefix_cache()
        done = []
        for name in ("first", "second"):
            engine.add_request(f"{name} {preempt}", request.prompt(), request.sampling())
        for step in range(40):
            done += [output for output in engine.step() if output.finished]
            if preempt and step == 5:
                assert engine.reset_prefix_cache(reset_running_requests=True)
        assert len(done) == 2
        assert len(done[0].prompt_token_ids) % BLOCK_SIZE == 0
        return [logprobs_of(output.outputs[0]) for output in done]

    for calm, preempted in zip(both(False), both(True), strict=True):
        torch.testing.assert_close(preempted, calm, atol=TOLERANCE, rtol=0)


def test_every_sample_of_a_request_is_steered(llm, reference) -> None:
    request = Request((1,), ("where", "is", "it"), ScalingVis(alpha=2.0), 3)
    params = SamplingParams(
        n=3,
        temperature=1.0,
        max_tokens=3,
        logprobs=-1,
        extra_args=extra_args(request.config),
    )
    (output,) = llm.generate([request.prompt()], [params], use_tqdm=False)
    first = reference.answer(request).logprobs[0]
    assert len(output.outputs) == 3
    for completion in output.outputs:
        torch.testing.assert_close(logprobs_of(completion)[0], first, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("rows", ["last_prompt_token", "text_after_image"])
def test_log_probabilities_of_the_prompt_stay_unsteered_and_it_is_said(
    llm, rows, monkeypatch
) -> None:
    said = []
    monkeypatch.setattr(front_end.logger, "warning_once", said.append)
    prompt = Request((2,), ("what", "is", "left", "of", "it"), None).prompt()
    plain, steered = (
        llm.generate(
            [prompt],
            [SamplingParams(max_tokens=1, prompt_logprobs=1, extra_args=extra_args(config))],
            use_tqdm=False,
        )[0].prompt_logprobs
        for config in (None, ScalingVis(alpha=3.0, rows=rows))
    )
    assert plain[1:] == steered[1:]
    assert said == [front_end.PROMPT_LOGPROBS]


def test_confidence_is_taken_before_penalties_and_bans(llm, reference) -> None:
    config = AdaptVis(threshold=0.5)
    request = Request((3,), ("what", "is", "it"), config, 1)
    want = reference.answer(request)
    params = SamplingParams(
        max_tokens=1,
        temperature=0.1,
        logit_bias=dict.fromkeys(range(10, 60), -50.0),
        extra_args=extra_args(config),
    )
    (output,) = llm.generate([request.prompt()], [params], use_tqdm=False)
    decision = decisions(llm, [output.request_id])[output.request_id]
    assert decision.confidence == pytest.approx(want.confidence, abs=TOLERANCE)
    assert output.outputs[0].token_ids[0] not in range(10, 60)


def test_steering_may_be_given_in_flat_fields(llm, reference) -> None:
    request = Request((4,), ("where", "is", "it"), ScalingVis(alpha=1.8, layers="1-3"))
    params = request.sampling()
    params.extra_args = {"adaptvis_alpha": 1.8, "adaptvis_layers": [1, 2, 3], "other": 1}
    (output,) = llm.generate([request.prompt()], [params], use_tqdm=False)
    assert wrong([output], [reference.answer(request)]) == []
    # The caller's parameters are the caller's.
    assert params.extra_args == {"adaptvis_alpha": 1.8, "adaptvis_layers": [1, 2, 3], "other": 1}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"adaptvis_alpha": -1.0}, "alpha"),
        ({"adaptvis_alpha": "much"}, "alpha"),
        ({"adaptvis_alhpa": 1.0}, "did you mean 'adaptvis_alpha'"),
        ({"adaptvis_alpha": 1.0, "adaptvis_layers": [4]}, "4 layers"),
        ({"adaptvis_alpha": 1.0, "adaptvis_heads": "0-9"}, "4 heads"),
        ({"adaptvis": {"method": "norm_rescale"}}, "additional-config"),
        ({"adaptvis": "{"}, "JSON"),
        ({"adaptvis": "[" * 9000}, "JSON"),
        ({"adaptvis": " " * 20_000}, "20000 characters"),
        ({"adaptvis_alpha": 1e30}, "from 0 to 1000"),
        ({"adaptvis_alpha": 1.0, "adaptvis_layers": "0-2000000000"}, "indices go up to 4095"),
        ({"adaptvis_alpha": 1.0, "adaptvis_images": [10**9]}, "indices go up to 4095"),
        ({"adaptvis": "off", "adaptvis_alpha": 2.0}, "not both"),
    ],
)
def test_a_bad_parameter_is_refused_before_anything_runs(llm, arguments, field) -> None:
    with pytest.raises(Exception, match="adaptvis") as caught:
        llm.generate("red", SamplingParams(extra_args=arguments), use_tqdm=False)
    assert field in str(caught.value)
    assert not llm.llm_engine.has_unfinished_requests()


def test_text_rows_of_two_images_are_refused(llm) -> None:
    request = Request((1, 2), ("what",), ScalingVis(alpha=2.0, rows="text_after_image"))
    with pytest.raises(Exception, match="one unbroken run"):
        llm.generate([request.prompt()], [request.sampling()], use_tqdm=False)
    assert not llm.llm_engine.has_unfinished_requests()
