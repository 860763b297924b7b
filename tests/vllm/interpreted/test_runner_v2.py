"""The V2 model runner, GPUs' default, equals transformers: the real one, on the CPU engine.

With what is on by default on a GPU: asynchronous scheduling, and a compiled model.
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from pathlib import Path

import adaptvis_kernels
import pytest
import torch
from vllm import envs
from vllm.config import CompilationMode
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.attention import selector
from vllm.v1.worker.gpu.model_runner import GPUModelRunner

from adaptvis.steering import backend
from adaptvis.vllm import decisions

from .. import test_exactness as v1
from .. import test_families as families
from .. import workload
from ..engines import make_engine, schedule_asynchronously, steering_of

pytestmark = pytest.mark.filterwarnings("ignore:.*prompts were not steered")

REQUESTS = 60
# So few that running requests must give up their blocks to each other.
BLOCKS = 12

folder = v1.folder
reference = v1.reference
threshold = v1.threshold


@pytest.fixture(scope="module", autouse=True)
def runner_v2():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
        # An engine that started before has made vLLM remember its environment.
        envs.disable_envs_cache()
        yield
    envs.disable_envs_cache()


@pytest.fixture(scope="module")
def llm(folder):
    with pytest.MonkeyPatch.context() as patch:
        schedule_asynchronously(patch)
        llm = make_engine(
            folder,
            num_gpu_blocks_override=BLOCKS,
            disable_log_stats=False,
            enforce_eager=False,
            compilation_config={"backend": "eager"},
        )
    inner = steering_of(llm).runner
    assert isinstance(inner, GPUModelRunner)
    assert inner.compilation_config.mode != CompilationMode.NONE
    assert inner.vllm_config.scheduler_config.async_scheduling
    yield llm
    llm.llm_engine.engine_core.shutdown()
    del llm
    gc.collect()


@pytest.fixture(scope="module")
def requests(threshold):
    return workload.workload(REQUESTS, threshold, seed=1)


@pytest.fixture(scope="module")
def expected(reference, requests):
    return [reference.answer(request) for request in requests]


@pytest.fixture(scope="module")
def together(llm, requests):
    return v1.run(llm, requests)


def test_mixed_requests_equal_transformers(llm, together, requests, expected) -> None:
    assert v1.wrong(together, expected) == []
    # Otherwise the engine was not put to the test.
    assert v1.counter(llm, "num_preemptions") >= 5
    assert v1.counter(llm, "prefix_cache_hits") >= 300
    found = decisions(llm, [output.request_id for output in together])
    for output, one in zip(together, expected, strict=True):
        assert found[output.request_id].alpha == pytest.approx(one.alpha)
    assert sum(one.alpha != 1 for one in expected) >= REQUESTS / 2


def test_without_running_preempted_rows_again_answers_are_wrong(
    llm, requests, expected, monkeypatch
) -> None:
    v1.run_rows_only_once(monkeypatch)
    few = slice(0, 30)
    assert v1.wrong(v1.run(llm, requests[few]), expected[few])


test_second_turns = v1.test_second_turns_share_only_what_steering_left_alone
test_unsteered_requests = (
    v1.test_unsteered_requests_are_bit_identical_to_those_of_an_untouched_runner
)
test_requests_that_resume_together = (
    v1.test_requests_of_one_prompt_that_resume_together_do_not_read_each_others_old_keys
)
test_every_sample = v1.test_every_sample_of_a_request_is_steered
test_log_probabilities_of_the_prompt = (
    v1.test_log_probabilities_of_the_prompt_stay_unsteered_and_it_is_said
)
test_confidence = v1.test_confidence_is_taken_before_penalties_and_bans
test_finished_requests = v1.test_finished_requests_leave_nothing_behind


def test_the_paged_kernel_on_this_runner_equals_transformers(
    llm, requests, expected, monkeypatch
) -> None:
    calls: Counter[str] = Counter()
    kernel = adaptvis_kernels.steered_paged_decode

    def counted(*args, **kwargs):
        calls["steered_paged_decode"] += 1
        return kernel(*args, **kwargs)

    monkeypatch.setattr(adaptvis_kernels, "steered_paged_decode", counted)
    few = [index for index, request in enumerate(requests) if request.new_tokens <= 6][:12]
    with backend.override_backend("triton"):
        outputs = v1.run(llm, [requests[index] for index in few])
    assert v1.wrong(outputs, [expected[index] for index in few]) == []
    assert calls["steered_paged_decode"] >= 4


def test_vllms_triton_attention_and_its_cache_layout_equal_transformers(
    folder, requests, expected, monkeypatch
) -> None:
    backend_class = "vllm.v1.attention.backends.triton_attn.TritonAttentionBackend"
    monkeypatch.setattr(
        CpuPlatform, "get_attn_backend_cls", classmethod(lambda *args, **kwargs: backend_class)
    )
    # Engines that started before have made vLLM remember its choice.
    selector._cached_get_attn_backend.cache_clear()
    # It asks for the size of a tile.
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    short = [index for index, request in enumerate(requests) if request.new_tokens <= 4]
    few = [index for index in short if expected[index].alpha != 1][:2] + short[:1]
    llm = make_engine(folder, num_gpu_blocks_override=BLOCKS)
    layers = steering_of(llm).runner.compilation_config.static_forward_context
    assert {layer.attn_backend.get_name() for layer in layers.values()} >= {"TRITON_ATTN"}
    with backend.override_backend("triton"):
        outputs = v1.run(llm, [requests[index] for index in few])
    assert v1.wrong(outputs, [expected[index] for index in few]) == []
    selector._cached_get_attn_backend.cache_clear()


# Positions of three parts; features of deeper layers; two groups of cache blocks and windows.
@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "gemma3"])
def served(request, tmp_path_factory):
    both = families.Served(request.param, tmp_path_factory.mktemp("models") / request.param)
    assert isinstance(steering_of(both.llm).runner, GPUModelRunner)
    yield both
    both.close()


@pytest.mark.parametrize("method", ["unsteered", "adaptvis", "generated", "text after image"])
def test_families(served, method) -> None:
    families.test_answers_are_those_of_transformers(served, method)


def test_two_tensor_parallel_ranks_equal_transformers(
    folder, requests, expected, monkeypatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    # Ranks are bound to memory nodes of their own, of which a small machine has one.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    paths = [str(Path(__file__).parent / "triton_on_cpu"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    envs.disable_envs_cache()
    llm = make_engine(folder, num_gpu_blocks_override=BLOCKS, tensor_parallel_size=2)
    try:
        outputs = v1.run(llm, requests[:20])
        assert v1.wrong(outputs, expected[:20]) == []
        first, second = llm.collective_rpc("adaptvis_decisions")
        assert first == second
        assert len(first) == 20
    finally:
        llm.llm_engine.engine_core.shutdown()
