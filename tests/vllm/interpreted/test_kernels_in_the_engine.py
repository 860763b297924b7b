"""The code that a GPU would run, in the real engine: the paged kernel on vLLM's own cache."""

from __future__ import annotations

from collections import Counter

import adaptvis_kernels
import pytest

from adaptvis.steering import backend

from .. import engines, tiny_llava, workload


@pytest.mark.parametrize("threshold", [0.26])
def test_the_paged_kernel_in_the_engine_equals_transformers(
    tmp_path, threshold, monkeypatch
) -> None:
    folder = tiny_llava.write_random_llava(tmp_path / "llava")
    requests = workload.workload(40, threshold, seed=3)
    requests = [r for r in requests if r.new_tokens <= 6]
    reference = workload.Transformers(folder)
    expected = [reference.answer(request) for request in requests]
    calls: Counter[str] = Counter()
    for name in ("steered_paged_decode", "select_alpha"):
        _count(monkeypatch, name, calls)
    with backend.override_backend("triton"):
        llm = engines.make_engine(folder, num_gpu_blocks_override=40)
        outputs = llm.generate(
            [request.prompt() for request in requests],
            [request.sampling() for request in requests],
            use_tqdm=False,
        )
    for one, output in zip(expected, outputs, strict=True):
        same, error = workload.compare(one, output)
        assert same
        assert error < 1e-4
    assert calls["steered_paged_decode"] >= 4 * 4
    assert calls["select_alpha"] >= 4


def _count(monkeypatch, name: str, calls: Counter[str]) -> None:
    function = getattr(adaptvis_kernels, name)

    def counted(*args, **kwargs):
        calls[name] += 1
        return function(*args, **kwargs)

    monkeypatch.setattr(adaptvis_kernels, name, counted)
