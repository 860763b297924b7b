"""The backend switch: who computes what, and that it is torch wherever kernels do not serve."""

import sys
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch

from adaptvis import AdaptVis, AdaptVisWarning, ScalingVis
from adaptvis.errors import ConfigError
from adaptvis.steering import attention, backend, norms
from adaptvis.steering.policy import confidence_of


@pytest.fixture(autouse=True)
def nothing_is_known_of_any_device(monkeypatch):
    monkeypatch.delenv("ADAPTVIS_BACKEND", raising=False)
    monkeypatch.setattr(backend, "_served", {})
    monkeypatch.setattr(backend, "_failures", {})


@pytest.fixture
def gpu(monkeypatch):
    """A tensor on a GPU that is not there; launches counts the trials, error is what one raises."""
    from adaptvis_kernels import support

    tensor = SimpleNamespace(
        dtype=torch.float16, device=torch.device("cuda", 0), launches=0, error=None
    )

    def try_launch(device):
        tensor.launches += 1
        if tensor.error is not None:
            raise tensor.error

    monkeypatch.setattr(support, "try_launch", try_launch)
    tensor.architecture = "sm_90"
    monkeypatch.setattr(support, "architecture_of", lambda device: tensor.architecture)
    return tensor


def problem(rows: int = 2, dtype: torch.dtype = torch.float32) -> dict:
    generator = torch.Generator().manual_seed(rows)
    return {
        "query": torch.randn(2, 4, rows, 16, generator=generator).to(dtype),
        "key": torch.randn(2, 2, 9, 16, generator=generator).to(dtype),
        "value": torch.randn(2, 2, 9, 16, generator=generator).to(dtype),
        "image_columns": torch.rand(2, 9, generator=generator) < 0.5,
        "row_alpha": torch.rand(2, rows, generator=generator) * 2,
        "mask": torch.ones(1, 1, rows, 9, dtype=torch.bool).tril(9 - rows),
        "scaling": 0.25,
    }


def test_cpu_tensors_are_torchs_and_never_import_triton(monkeypatch):
    monkeypatch.setattr(backend, "_load_kernels", lambda: pytest.fail("kernels were asked for"))
    inputs = problem()
    output = backend.steered_attention(**inputs)
    assert torch.equal(output, attention.steered_attention(**inputs)[0])
    vectors = torch.randn(3, 8)
    assert torch.equal(
        backend.rescale_norms(vectors, 2.0, 1.5), norms.rescale_norms(vectors, 2.0, 1.5)
    )


def test_override_is_scoped():
    tensor = torch.zeros(1)
    assert backend.kernels_for(tensor) is None
    with backend.override_backend("triton"):
        assert backend.kernels_for(tensor).__name__ == "adaptvis_kernels"
        with backend.override_backend("torch"):
            assert backend.kernels_for(tensor) is None
        assert backend.kernels_for(tensor.double()) is None
    assert backend.kernels_for(tensor) is None


@pytest.mark.parametrize(
    "change",
    [
        {"query": torch.randn(2, 4, 2, 16, requires_grad=True)},
        {"row_alpha": torch.ones(2, 2, requires_grad=True)},
        {"mask": torch.zeros(1, 1, 2, 9)},
        {"mask": torch.ones(2, 4, 2, 9, dtype=torch.bool)},
        {"value": torch.randn(2, 2, 9, 8)},
        {"key": torch.randn(2, 2, 9, 16, dtype=torch.bfloat16)},
    ],
    ids=[
        "gradient",
        "gradient of alpha",
        "additive mask",
        "mask per head",
        "other value size",
        "mixed dtypes",
    ],
)
def test_what_kernels_do_not_do_is_done_by_torch(change):
    inputs = {**problem(), **change}
    with backend.override_backend("triton"):
        output = backend.steered_attention(**inputs)
    assert torch.equal(output, attention.steered_attention(**inputs)[0])


def test_the_environment_switches_kernels_off_and_on_in_every_thread(monkeypatch, gpu):
    monkeypatch.setenv("ADAPTVIS_BACKEND", "torch")
    found = []
    thread = threading.Thread(target=lambda: found.append(backend.kernels_for(gpu)))
    thread.start()
    thread.join()
    assert found == [None]
    assert gpu.launches == 0
    monkeypatch.setenv("ADAPTVIS_BACKEND", "triton")
    assert backend.kernels_for(torch.zeros(1)).__name__ == "adaptvis_kernels"
    with backend.override_backend("torch"):
        assert backend.kernels_for(torch.zeros(1)) is None
    monkeypatch.setenv("ADAPTVIS_BACKEND", "")
    assert backend.kernels_for(torch.zeros(1)) is None


def test_a_backend_that_the_environment_misspells_is_refused(monkeypatch):
    monkeypatch.setenv("ADAPTVIS_BACKEND", "Triton")
    with pytest.raises(ConfigError, match="'torch' or 'triton' or unset, got 'Triton'"):
        backend.steered_attention(**problem())


def test_kernels_asked_for_by_the_environment_serve_without_a_trial(monkeypatch, gpu):
    monkeypatch.setenv("ADAPTVIS_BACKEND", "triton")
    gpu.architecture, gpu.error = "sm_75", RuntimeError("no C compiler")
    assert backend.kernels_for(gpu) is not None
    assert gpu.launches == 0


@pytest.mark.parametrize(
    ("architecture", "served"),
    [
        *[(f"sm_{capability}", True) for capability in (80, 86, 87, 89, 90, 100, 103, 120, 121)],
        *[("gfx90a", True), ("gfx942", True), ("sm_70", False), ("sm_75", False)],
        *[("gfx908", False), ("gfx1100", False), ("gfx950", False)],
    ],
)
def test_kernels_serve_the_architectures_whose_configurations_fit(gpu, architecture, served):
    gpu.architecture = architecture
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (backend.kernels_for(gpu) is not None) == served
        assert (backend.kernels_for(gpu) is not None) == served
    assert gpu.launches == int(served)


def test_a_triton_that_cannot_launch_warns_once_and_leaves_the_device_to_torch(gpu):
    gpu.error = RuntimeError("Failed to find C compiler.\nPlease specify via CC")
    with pytest.warns(AdaptVisWarning, match=r"cuda:0 \(RuntimeError: Failed to find C compiler"):
        assert backend.kernels_for(gpu) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend.kernels_for(gpu) is None
    assert gpu.launches == 1


def test_missing_triton_falls_back_and_a_broken_package_does_not(monkeypatch, gpu):
    backend._load_kernels.cache_clear()
    try:
        monkeypatch.setitem(sys.modules, "triton", None)
        for name in [name for name in sys.modules if name.startswith("adaptvis_kernels")]:
            monkeypatch.delitem(sys.modules, name)
        assert backend.kernels_for(gpu) is None
        with (
            backend.override_backend("triton"),
            pytest.raises(ConfigError, match="expects the package triton"),
        ):
            backend.kernels_for(torch.zeros(1))
        backend._load_kernels.cache_clear()
        monkeypatch.setitem(sys.modules, "adaptvis_kernels", None)
        with backend.override_backend("triton"), pytest.raises(ImportError):
            backend.kernels_for(torch.zeros(1))
    finally:
        backend._load_kernels.cache_clear()


@pytest.mark.parametrize(
    "config",
    [ScalingVis(alpha=1.5), AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=0.4)],
)
def test_decisions_follow_the_policy_and_leave_other_prompts_at_one(config):
    logits = torch.tensor([[0.0, 0.1, 0.2], [9.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    applies = torch.tensor([True, True, False])
    confidence, alpha = backend.decide(config, logits, applies)
    torch.testing.assert_close(confidence, confidence_of(logits))
    low = 1.5 if isinstance(config, ScalingVis) else 0.5
    assert alpha.tolist() == [low, 1.5, 1.0]


def test_embeddings_larger_than_the_kernel_holds_are_rescaled_by_torch():
    embeddings = torch.randn(1, 16385, generator=torch.Generator().manual_seed(0))
    with backend.override_backend("triton"):
        rescaled = backend.rescale_norms(embeddings, 2.0, None)
    torch.testing.assert_close(rescaled.norm(dim=-1), torch.tensor([2.0]))


def test_what_steers_on_a_device_is_told_with_its_reason(gpu, monkeypatch):
    cpu, device = torch.device("cpu"), gpu.device
    assert backend.backend_on(cpu) == ("torch", "the Triton kernels serve CUDA and ROCm devices")
    assert backend.backend_on(device) == ("triton", "a trial launch went well")
    monkeypatch.setattr(backend, "_served", {})
    gpu.architecture = "sm_75"
    assert backend.backend_on(device)[0] == "torch"
    assert "no configurations of the kernels" in backend.backend_on(device)[1]
    monkeypatch.setattr(backend, "_served", {})
    gpu.architecture, gpu.error = "sm_90", OSError("no compiler")
    name, reason = backend.backend_on(device)
    assert (name, reason) == ("torch", "Triton cannot launch on cuda:0 (OSError: no compiler)")
    monkeypatch.setenv("ADAPTVIS_BACKEND", "triton")
    with pytest.raises(ConfigError, match="insists on kernels; unset it: Triton cannot launch"):
        backend.backend_on(device)
    gpu.error = None
    assert backend.backend_on(device) == ("triton", "ADAPTVIS_BACKEND=triton")
    monkeypatch.setenv("ADAPTVIS_BACKEND", "torch")
    assert backend.backend_on(device) == ("torch", "ADAPTVIS_BACKEND=torch")
    monkeypatch.delenv("ADAPTVIS_BACKEND")
    monkeypatch.setattr(backend, "_load_kernels", lambda: None)
    assert backend.backend_on(device) == ("torch", "the package triton cannot be imported")
