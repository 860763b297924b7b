"""Normalize, Multilayer and compressed LLaVAs: vLLM answers as transformers does."""

from __future__ import annotations

import gc
from dataclasses import replace
from statistics import median

import pytest
import torch
from torch.nn.functional import gelu, linear
from vllm import SamplingParams

from adaptvis import AdaptVis, ScalingVis
from adaptvis.vllm import decisions

from .engines import make_engine, steering_of
from .tiny_normalized_llava import NORMALIZE, write_random_normalized_llava
from .workload import Request, Transformers, compare, logprobs_of

TOLERANCE = 1e-4
CLEARLY = 100 * TOLERANCE
ALL_LAYERS = [1, 2, 3, 4]
VARIANTS = {
    "baseline": {},
    "normalize": NORMALIZE,
    "normalize-multilayer": NORMALIZE | {"vision_feature_layer": ALL_LAYERS},
    "layers in any order": {"vision_feature_layer": [3, 0, -2], "nested": False},
    "16 tokens": {"compression": 16},
    "4 tokens": {"compression": 4},
    "1 token": {"compression": 1},
    "all": NORMALIZE | {"vision_feature_layer": [-1, 2], "compression": 16, "nested": False},
    "siglip": NORMALIZE | {"vision_feature_layer": [2, 4], "siglip": True},
}
WORDS = ("where", "is", "the", "red", "left", "of", "a", "in")
# Images of a prompt, and how many words follow them.
PROMPTS = [((0,), 1), ((1,), 4), ((0, 2), 3), ((), 5), ((3,), 8), ((0,), 2)]
METHODS = {
    "scalingvis": ScalingVis(alpha=1.8),
    "adaptvis": AdaptVis(alpha_low=0.4, alpha_high=2.2),
    "layers and heads": ScalingVis(alpha=2.5, layers="1-2", heads=(0, 3)),
    "generated": ScalingVis(alpha=1.8, rows="generated"),
    "text after image": ScalingVis(alpha=1.8, rows="text_after_image"),
    "second image": ScalingVis(alpha=1.8, images=(1,)),
}


def requests_with(config):
    requests = [Request(images, WORDS[:count], config) for images, count in PROMPTS]
    if config is None:
        return requests
    if config.rows == "text_after_image":
        return [request for request in requests if len(request.images) < 2]
    if config.images is not None:
        return [request for request in requests if request.images]
    return requests


class Served:
    """One variant in both engines."""

    def __init__(self, folder, **options):
        write_random_normalized_llava(folder, **options)
        self.folder = folder
        self.options = options
        self.reference = Transformers(folder)
        self.llm = make_engine(folder)

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

    @torch.inference_mode()
    def embeddings(self, seeds):
        """Image embeddings [B, T, D] as vLLM's model makes them, and their pixels."""
        request = Request(seeds, ("where",), None)
        pixels = self.reference.encode(request)["pixel_values"]
        model = steering_of(self.llm).runner.get_model()
        return model.embed_multimodal(pixel_values=pixels), pixels


@pytest.fixture(scope="module", params=VARIANTS)
def served(request, tmp_path_factory):
    both = Served(tmp_path_factory.mktemp("models") / "model", **VARIANTS[request.param])
    yield both
    both.close()


def test_both_engines_see_the_same_tokens(served):
    requests = requests_with(None)
    tokens = served.options.get("compression") or 49
    for request, output in zip(requests, served.run(requests), strict=True):
        ids = served.reference.encode(request)["input_ids"][0].tolist()
        assert output.prompt_token_ids == ids
        assert ids.count(4) == tokens * len(request.images)


def test_answers_are_those_of_transformers(served):
    requests = requests_with(None)
    for request, output in zip(requests, served.run(requests), strict=True):
        same, error = compare(served.reference.answer(request), output)
        assert same, request
        assert error < TOLERANCE, request


@torch.inference_mode()
def test_log_probabilities_of_prompts_are_those_of_transformers(served):
    requests = requests_with(None)
    outputs = served.llm.generate(
        [request.prompt() for request in requests],
        SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=-1),
        use_tqdm=False,
    )
    for request, output in zip(requests, outputs, strict=True):
        logits = served.reference.model(**served.reference.encode(request)).logits[0, :-1]
        found = torch.tensor(
            [[step[token].logprob for token in range(64)] for step in output.prompt_logprobs[1:]]
        )
        torch.testing.assert_close(found, logits.log_softmax(-1), rtol=0, atol=TOLERANCE)


def test_pictures_matter(served):
    words = WORDS[:4]
    first, second = served.run([Request((0,), words, None), Request((1,), words, None)])
    moved = logprobs_of(first.outputs[0])[0] - logprobs_of(second.outputs[0])[0]
    assert moved.abs().max() > CLEARLY


@torch.inference_mode()
def test_image_embeddings_follow_the_formula(served):
    embeddings, pixels = served.embeddings((0, 1, 2))
    expected = by_hand(served.reference.model, pixels, served.options)
    assert len(embeddings) == 3
    for found, want in zip(embeddings, expected, strict=True):
        torch.testing.assert_close(found.double(), want, rtol=0, atol=1e-5)


def by_hand(model, pixels, options):
    """Image tokens [B, T, D] in float64: concatenate, project, average, normalise, clip, scale."""
    state = {name: weight.double() for name, weight in model.state_dict().items()}
    tower = model.model.vision_tower.double()
    states = tower(pixels.double(), output_hidden_states=True).hidden_states
    tower.float()
    layers = options.get("vision_feature_layer", [-1])
    first = 0 if options.get("siglip") else 1
    features = torch.cat([states[layer][:, first:] for layer in layers], dim=-1)
    at = "model.multi_modal_projector."
    hidden = gelu(linear(features, state[at + "linear_1.weight"], state[at + "linear_1.bias"]))
    tokens = linear(hidden, state[at + "linear_2.weight"], state[at + "linear_2.bias"])
    if "compression" in options:
        tokens = averaged(tokens, options["compression"])
    if "normalize" not in options:
        return tokens
    rms = (tokens.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    tokens = tokens / rms * state[at + "norm.weight"]
    length = tokens.square().sum(-1, keepdim=True).sqrt()
    clipped = torch.where(length > options["max_norm"], options["max_norm"] / length, 1.0)
    return tokens * clipped * options["target_mean"]


def averaged(tokens, count):
    """Cell i of n averages rows floor(7 i / n) to ceil(7 (i + 1) / n) of the grid; columns too."""
    side = round(count**0.5)
    grid = tokens.unflatten(1, (7, 7))
    spans = [slice(i * 7 // side, -(-(i + 1) * 7 // side)) for i in range(side)]
    return torch.stack(
        [grid[:, rows, columns].mean((1, 2)) for rows in spans for columns in spans], dim=1
    )


@pytest.mark.parametrize(
    "served", ["normalize", "normalize-multilayer", "all", "siglip"], indirect=True
)
def test_norms_of_image_embeddings_end_at_the_clip(served):
    (embeddings, _) = served.embeddings((0, 1, 2))
    lengths = torch.cat(list(embeddings)).norm(dim=-1)
    largest = NORMALIZE["max_norm"] * NORMALIZE["target_mean"]
    clipped = torch.isclose(lengths, torch.tensor(largest), rtol=1e-5)
    assert (lengths <= largest * (1 + 1e-5)).all()
    assert 0 < clipped.sum() < len(lengths)


@pytest.mark.parametrize(
    "served", ["normalize-multilayer", "all", "1 token", "siglip"], indirect=True
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:.*prompts were not steered")
def test_steered_answers_are_those_of_transformers(served, method):
    config = METHODS[method]
    requests = requests_with(config)
    plain = [served.reference.answer(replace(request, config=None)) for request in requests]
    if method == "adaptvis":
        sure = [answer.logprobs[0].max().exp().item() for answer in plain]
        config = config.model_copy(update={"threshold": median(sure)})
        requests = [replace(request, config=config) for request in requests]
    outputs = served.run(requests)
    taken = decisions(served.llm)
    for request, output, before in zip(requests, outputs, plain, strict=True):
        expected = served.reference.answer(request)
        same, error = compare(expected, output)
        assert same, request
        assert error < TOLERANCE, request
        steered = bool(request.images)
        if config.images is not None:
            steered = len(request.images) > 1
        assert taken[output.request_id].applied == steered
        assert taken[output.request_id].alpha == pytest.approx(expected.alpha)
        moved = (expected.logprobs[0] - before.logprobs[0]).abs().max().item()
        assert (moved > TOLERANCE) == steered
