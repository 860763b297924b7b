"""Engines in processes of their own: tensor parallelism, async scheduling, compiled models."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest
from vllm.config import CompilationMode

from adaptvis import ScalingVis
from adaptvis.vllm import decisions

from .engines import make_engine, schedule_asynchronously, steering_of
from .tiny_llava import WORDS, write_random_llava
from .workload import Request, Transformers, compare, logprobs_of, workload

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_llava(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture(scope="module")
def requests():
    return workload(60, 0.26, seed=7)


@pytest.fixture(scope="module")
def expected(folder, requests):
    reference = Transformers(folder)
    return [reference.answer(request) for request in requests]


def answers(llm, requests):
    outputs = llm.generate(
        [request.prompt() for request in requests],
        [request.sampling() for request in requests],
        use_tqdm=False,
    )
    return outputs, decisions(llm)


def assert_expected(outputs, found, expected) -> None:
    for one, output in zip(expected, outputs, strict=True):
        same, error = compare(one, output)
        assert same
        assert error < TOLERANCE
        assert found[output.request_id].alpha == pytest.approx(one.alpha)


def test_two_tensor_parallel_ranks_equal_transformers(
    folder, requests, expected, monkeypatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    # Ranks are bound to memory nodes of their own, of which a small machine has one.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    llm = make_engine(
        folder, num_gpu_blocks_override=14, disable_log_stats=False, tensor_parallel_size=2
    )
    try:
        assert_expected(*answers(llm, requests), expected)
        metrics = {metric.name: metric for metric in llm.get_metrics()}
        assert metrics["vllm:num_preemptions"].value >= 3
        # Both ranks know the same of every request.
        first, second = llm.collective_rpc("adaptvis_decisions")
        assert first == second
    finally:
        llm.llm_engine.engine_core.shutdown()


def test_async_scheduling_of_a_compiled_model_equals_transformers(
    folder, requests, expected, monkeypatch
) -> None:
    # Under preemption this fails on a CPU without adaptvis, too.
    schedule_asynchronously(monkeypatch)
    llm = make_engine(
        folder,
        num_gpu_blocks_override=100,
        enforce_eager=False,
        compilation_config={"backend": "eager"},
    )
    runner = steering_of(llm).runner
    assert runner.use_async_scheduling
    assert runner.compilation_config.mode != CompilationMode.NONE
    assert_expected(*answers(llm, requests), expected)


def test_bfloat16_steering_is_as_close_as_bfloat16_without_steering(folder) -> None:
    reference = Transformers(folder)
    configs = [None, ScalingVis(alpha=1.8), ScalingVis(alpha=0.4, layers="1-3")]
    requests = [
        Request((seed,), tuple(WORDS[seed : seed + 7]), config, 1)
        for seed in range(6)
        for config in configs
    ]
    llm = make_engine(folder, dtype="bfloat16")
    errors: dict[bool, list[float]] = {True: [], False: []}
    effects = []
    outputs, _ = answers(llm, requests)
    for request, output in zip(requests, outputs, strict=True):
        want = reference.answer(request).logprobs
        error = (logprobs_of(output.outputs[0]) - want).abs().mean().item()
        errors[request.config is not None].append(error)
        plain = reference.answer(replace(request, config=None)).logprobs
        effects.append((want - plain).abs().mean().item())
    assert median(errors[True]) < 2 * median(errors[False])
    # The noise is far below what steering does.
    assert median(errors[True]) < 0.2 * median(effect for effect in effects if effect)
