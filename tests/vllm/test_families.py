"""Every family that vLLM serves, with tiny random weights: the same steering as in transformers."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median

import pytest
import torch
from hf.helpers import image
from hf.tiny_families import PLACEHOLDER
from vllm.exceptions import VLLMValidationError

from adaptvis import AdaptVis, ScalingVis
from adaptvis.vllm import decisions

from .checkpoints import write_checkpoint
from .engines import make_engine, steering_of
from .workload import Request, Transformers, compare, logprobs_of

pytestmark = pytest.mark.filterwarnings("ignore:.*prompts were not steered")

TOLERANCE = 1e-4
CLEARLY = 100 * TOLERANCE
FAMILIES = (
    "llava",
    "llava_next",
    "llava_onevision",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "gemma3",
    "internvl",
    "idefics3",
    "smolvlm",
)
# Images in several runs of tokens, and layers that forget.
WITHOUT_TEXT_ROWS = {"idefics3": "unbroken run", "smolvlm": "unbroken run", "gemma3": "sliding"}

SIZES = [(56, 40), (80, 60), (40, 90), (56, 56), (100, 50)]
# <last> is an image whose tokens end the prompt, where the family allows that.
PROMPTS = [
    ("<image> where is the cat", (0,)),
    ("what is left of the dog in the image <image> ?", (1,)),
    ("right or left", ()),
    ("<image> compare <image> : which one is a red square", (2, 3)),
    ("where is the image <last>", (4,)),
    ("<image> how many", (0,)),
    ("the man at <image> is near a tree and a car , not behind the house", (3,)),
]
METHODS = {
    "unsteered": None,
    "scalingvis": ScalingVis(alpha=1.8),
    "adaptvis": AdaptVis(alpha_low=0.5, alpha_high=1.8),
    "layers and heads": ScalingVis(alpha=2.5, layers=(1,), heads=(1,)),
    "second image": ScalingVis(alpha=1.8, images=(1,)),
    "generated": ScalingVis(alpha=1.8, rows="generated"),
    "text after image": ScalingVis(alpha=1.8, rows="text_after_image"),
}


@dataclass(frozen=True)
class FamilyRequest(Request):
    family: str = ""

    @property
    def text(self) -> str:
        placeholder = PLACEHOLDER[self.family]
        text = " ".join(self.words).replace("<image>", placeholder)
        return text.replace("<last>", placeholder.removesuffix("<|vision_end|>"))

    @property
    def ends_in_image(self) -> bool:
        """For families with M-RoPE, whose images stand between markers otherwise."""
        return self.text.endswith("<|image_pad|>")

    def pictures(self):
        return [image(seed, *SIZES[seed]) for seed in self.images]


class FamilyTransformers(Transformers):
    def encode(self, request):
        images = request.pictures() or None
        if images and request.family in ("gemma3", "idefics3", "smolvlm"):
            images = [images]
        inputs = self.processor(text=[request.text], images=images, return_tensors="pt")
        # vLLM's CPU attention lets Gemma's image tokens see only what precedes them; so does
        # transformers without these.
        inputs.pop("token_type_ids", None)
        return inputs


class Served:
    """One family in both engines."""

    def __init__(self, family, folder):
        self.family = family
        write_checkpoint(family, folder)
        self.reference = FamilyTransformers(folder)
        self.llm = make_engine(folder, **self.options())

    def options(self):
        limits = {"image": 2}
        if getattr(self.reference.processor, "video_processor", None) is not None:
            limits["video"] = 0
        return {"limit_mm_per_prompt": limits}

    def close(self):
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()

    def requests(self, config):
        if config is not None and config.method == "adaptvis":
            config = config.model_copy(update={"threshold": self.threshold})
        requests = [
            FamilyRequest(images, tuple(prompt.split(" ")), config, family=self.family)
            for prompt, images in PROMPTS
        ]
        # Behind an image that ends the prompt transformers counts on along each axis of M-RoPE by
        # itself, and vLLM from the largest: only the first token is the same without steering, too.
        requests = [
            replace(request, new_tokens=1 if request.ends_in_image else 4) for request in requests
        ]
        if config is not None and config.rows == "text_after_image":
            requests = [request for request in requests if len(request.images) < 2]
        if config is not None and config.images is not None:
            requests = [request for request in requests if request.images]
        return requests

    @cached_property
    def unsteered(self):
        return [self.reference.answer(request) for request in self.requests(None)]

    @cached_property
    def threshold(self):
        answers = zip(PROMPTS, self.unsteered, strict=True)
        return median(
            answer.logprobs[0].max().exp().item() for (_, images), answer in answers if images
        )

    def is_steered(self, request):
        config = request.config
        if config is None or not request.images:
            return False
        if config.images is not None:
            return len(request.images) > 1
        ids = self.reference.encode(request)["input_ids"][0]
        if ids[-1] != self.reference.model.config.image_token_id:
            return True
        # Qwen3-VL's image features of deeper layers are gone when the row would run again.
        return config.rows != "text_after_image" and self.family != "qwen3_vl"

    def expected(self, request):
        if not self.is_steered(request):
            request = replace(request, config=None)
        return self.reference.answer(request)

    def run(self, requests):
        return self.llm.generate(
            [request.prompt() for request in requests],
            [request.sampling() for request in requests],
            use_tqdm=False,
        )


@pytest.fixture(scope="module", params=FAMILIES)
def served(request, tmp_path_factory):
    both = Served(request.param, tmp_path_factory.mktemp("models") / request.param)
    yield both
    both.close()


def test_both_engines_see_the_same_tokens(served):
    requests = served.requests(None)
    for request, output in zip(requests, served.run(requests), strict=True):
        ids = served.reference.encode(request)["input_ids"][0]
        assert output.prompt_token_ids == ids.tolist()


@pytest.mark.parametrize("method", METHODS)
def test_answers_are_those_of_transformers(served, method):
    config = METHODS[method]
    requests = served.requests(config)
    if method == "text after image" and served.family in WITHOUT_TEXT_ROWS:
        with pytest.raises(VLLMValidationError, match=WITHOUT_TEXT_ROWS[served.family]):
            served.run(requests[:1])
        return
    outputs = served.run(requests)
    taken = decisions(served.llm)
    for request, output in zip(requests, outputs, strict=True):
        expected = served.expected(request)
        same, error = compare(expected, output)
        assert same, (request.text, error)
        assert error < TOLERANCE, request.text
        decision = taken[output.request_id]
        assert decision.alpha == pytest.approx(expected.alpha)
        if decision.applied:
            assert decision.confidence == pytest.approx(expected.confidence, abs=1e-5)


@pytest.mark.parametrize("method", [method for method in METHODS if METHODS[method] is not None])
def test_steering_moves_every_prompt_that_is_steered(served, method):
    if method == "text after image" and served.family in WITHOUT_TEXT_ROWS:
        return
    requests = served.requests(METHODS[method])
    plain = dict(zip(PROMPTS, served.run(served.requests(None)), strict=True))
    steered = served.run(requests)
    taken = decisions(served.llm)
    for request, output in zip(requests, steered, strict=True):
        before = plain[" ".join(request.words), request.images]
        moved = (logprobs_of(output.outputs[0]) - logprobs_of(before.outputs[0]))[0].abs().max()
        assert taken[output.request_id].applied == served.is_steered(request)
        if served.is_steered(request):
            assert moved > CLEARLY, request.text
        else:
            assert moved < TOLERANCE
    if method == "adaptvis":
        used = {round(taken[output.request_id].alpha, 6) for output in steered}
        assert used == {0.5, 1.0, 1.8}


@pytest.mark.parametrize("served", ["gemma3"], indirect=True)
def test_gemma_has_several_groups_of_cache_blocks(served):
    assert len(steering_of(served.llm).groups) > 1


@pytest.mark.parametrize("served", ["gemma3"], indirect=True)
def test_on_the_cpu_vllm_itself_gives_gemma_images_another_mask_than_transformers(served):
    (request, *_) = served.requests(None)
    inputs = served.reference.processor(
        text=[request.text], images=[request.pictures()], return_tensors="pt"
    )
    with torch.inference_mode():
        published = served.reference.model(**inputs).logits[0, -1].log_softmax(-1)
    assert (published - served.unsteered[0].logprobs[0]).abs().max() > CLEARLY
