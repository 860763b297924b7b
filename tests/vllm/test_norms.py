"""NormRescale for a whole engine: the same answers as transformers with the same configuration."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest

from adaptvis import NormRescale, ScalingVis
from adaptvis.errors import UnsupportedError
from adaptvis.vllm.norms import install_norms

from .checkpoints import write_checkpoint
from .engines import make_engine, steering_of
from .test_families import FamilyRequest, FamilyTransformers
from .tiny_llava import write_random_llava
from .workload import Request, Transformers, compare

pytestmark = pytest.mark.filterwarnings("ignore:.*prompts were not steered")

TOLERANCE = 1e-4
CLEARLY = 100 * TOLERANCE
NORMS = NormRescale(target="text")


class Rescaled:
    """An engine that rescales norms, and the same model in transformers."""

    def __init__(self, transformers, folder, default=None, **options):
        self.transformers = transformers
        server = [config.to_dict() for config in (NORMS, default) if config is not None]
        self.llm = make_engine(folder, additional_config={"adaptvis": server}, **options)

    def close(self):
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()

    def run(self, requests):
        return self.llm.generate(
            [request.prompt() for request in requests],
            [request.sampling() for request in requests],
            use_tqdm=False,
        )

    def check(self, requests):
        """Compare all answers; returns by how much the norms alone moved each first token."""
        moved = []
        for request, output in zip(requests, self.run(requests), strict=True):
            plain = self.transformers.answer(request)
            attention = [] if request.config is None else [request.config]
            expected = self.transformers.answer(replace(request, config=[*attention, NORMS]))
            same, error = compare(expected, output)
            assert same, (request, error)
            assert error < TOLERANCE, request
            moved.append((expected.logprobs[0] - plain.logprobs[0]).abs().max().item())
        return moved


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = write_random_llava(tmp_path_factory.mktemp("models") / "llava")
    both = Rescaled(Transformers(folder), folder, default=ScalingVis(alpha=1.8))
    yield both
    both.close()


@pytest.fixture(scope="module")
def qwen3_vl(tmp_path_factory):
    folder = write_checkpoint("qwen3_vl", tmp_path_factory.mktemp("models") / "qwen3_vl")
    limits = {"image": 2, "video": 0}
    both = Rescaled(FamilyTransformers(folder), folder, limit_mm_per_prompt=limits)
    yield both
    both.close()


def llava_requests(config):
    # The first image comes again, from the engine's cache of embeddings.
    images = [(0,), (1,), (0, 2), (0,), ()]
    words = ("where", "is", "the", "red")
    return [Request(own, words[: 1 + index], config) for index, own in enumerate(images)]


def test_norms_are_rescaled_as_in_transformers(llava):
    moved = llava.check(llava_requests(None))
    assert all(distance > CLEARLY for distance in moved[:-1])
    assert moved[-1] == 0


def test_norms_and_attention_steering_compose(llava):
    moved = llava.check(llava_requests(ScalingVis(alpha=2.0)))
    assert all(distance > CLEARLY for distance in moved[:-1])


def test_features_of_deeper_layers_keep_their_norms(qwen3_vl):
    requests = [
        FamilyRequest(images, tuple(prompt.split(" ")), config, family="qwen3_vl")
        for prompt, images in (
            ("<image> where is the cat", (0,)),
            ("compare <image> <image> .", (1, 2)),
        )
        for config in (None, ScalingVis(alpha=1.8))
    ]
    assert all(distance > CLEARLY for distance in qwen3_vl.check(requests))


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("compilation_config", "cudagraph_mm_encoder", True),
        (None, "ec_transfer_config", object()),
    ],
)
def test_embeddings_that_come_from_elsewhere_are_refused(llava, monkeypatch, part, name, value):
    runner = steering_of(llava.llm).runner
    owner = runner.vllm_config if part is None else getattr(runner.vllm_config, part)
    monkeypatch.setattr(owner, name, value)
    with pytest.raises(UnsupportedError, match="norm_rescale is not supported"):
        install_norms(runner, NORMS)
