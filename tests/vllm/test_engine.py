"""The vLLM engine answers as the transformers engine does, and refuses as it does."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pictures_on_disk import encoded, orientation_tag
from PIL import Image
from transformers import AutoProcessor
from vllm.v1.engine.input_processor import InputProcessor

from adaptvis import AdaptVis, NormRescale, ScalingVis
from adaptvis.engine import Answer, Engine, Query
from adaptvis.errors import CheckpointError, ConfigError, PromptError, UnsupportedError
from adaptvis.hf.engine import HFEngine
from adaptvis.tasks import get_task
from adaptvis.tasks.images import decode_image
from adaptvis.vllm.engine import VLLMEngine
from adaptvis.vllm.plugin import DISABLE

MODEL = Path(__file__).parents[2] / "adaptvis/assets/models/tiny-2ds-shortcut-seed1"
CONFIGS = [
    None,
    ScalingVis(alpha=2.0),
    ScalingVis(alpha=0.5, layers=(1, 2), heads=(0, 3)),
    ScalingVis(alpha=1.8, rows="text_after_image"),
    ScalingVis(alpha=1.0),
    AdaptVis(alpha_low=2.5, alpha_high=0.7, threshold=0.7),
    AdaptVis(alpha_low=0.5, alpha_high=1.0, threshold=0.7),
    AdaptVis(alpha_low=2.5, alpha_high=0.7, threshold=0.7, compared="rounded_confidence"),
    AdaptVis(alpha_low=2.5, alpha_high=0.7, threshold=0.7, compared="rounded_logit"),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[VLLMEngine]:
    loaded = VLLMEngine.load(MODEL, max_num_seqs=32)
    yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def reference() -> HFEngine:
    return HFEngine.load(MODEL)


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    samples = get_task("2ds-prior-balanced").load(38, "test")
    raw = Query("<image> where is the red circle", samples[0].query().images, raw=True)
    return [*(sample.query() for sample in samples), raw, Query("where is the red circle")]


def without_padding(answer: Answer) -> tuple[int, ...]:
    """Up to the end-of-sequence token: a batch of transformers is padded behind it."""
    ids = answer.token_ids
    return ids[: ids.index(3) + 1] if 3 in ids else ids


def test_answers_and_decisions_are_those_of_the_transformers_engine(engine, reference, queries):
    expected = reference.answer(queries, CONFIGS, max_new_tokens=4)
    found = engine.answer(queries, CONFIGS, max_new_tokens=4)
    for own, theirs in zip(found, expected, strict=True):
        for query, answer, other in zip(queries, own, theirs, strict=True):
            assert answer.token_ids == without_padding(other)
            assert answer.text == other.text
            assert answer.confidence == pytest.approx(other.confidence, abs=1e-4)
            assert answer.alpha == pytest.approx(other.alpha)
            assert answer.applied == other.applied
            # Without an image and with alpha 1 there are two reasons.
            assert answer.reason == other.reason or not query.images
    assert any(a.text != b.text for a, b in zip(found[0], found[1], strict=True))
    assert sorted({answer.alpha for answer in found[5]}) == pytest.approx([0.7, 1.0, 2.5])
    # No largest logit lies below the threshold: what the authors' code does on VSR.
    assert sorted({answer.alpha for answer in found[8]}) == pytest.approx([0.7, 1.0])


def test_both_engines_see_the_same_pixels_of_a_picture_that_is_resized(engine, reference):
    pytest.importorskip("torchvision")
    noise = np.random.default_rng(0).integers(0, 255, (211, 307, 3), dtype=np.uint8)
    query = Query("Where is the red circle?", (Image.fromarray(noise),))
    for loaded in (engine, reference):
        described = loaded.describe()
        assert described["image_processor"] == "CLIPImageProcessorPil"
        assert described["image_backend"] == "pil"
    # What each library takes by itself where torchvision is installed.
    usual = HFEngine(reference.model, AutoProcessor.from_pretrained(MODEL))
    assert usual.describe()["image_backend"] == "torchvision"
    found, expected, other = (
        loaded.answer([query], [None], max_new_tokens=1)[0][0].confidence
        for loaded in (engine, reference, usual)
    )
    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(other - expected) > 1e-4


def test_one_query_at_a_time_answers_as_all_at_once(engine, queries):
    few = queries[:4]
    together = engine.answer(few, CONFIGS, max_new_tokens=2)
    for index, query in enumerate(few):
        alone = engine.answer([query], CONFIGS, max_new_tokens=2)
        assert [own[0].text for own in alone] == [own[index].text for own in together]


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


QUESTION = "where is the red circle"


@pytest.mark.parametrize("wrong", ["no placeholder", "too long"])
def test_a_refused_question_leaves_its_picture_and_its_neighbours_alone(engine, wrong):
    """vLLM counts on its engine to hold each picture that its front end has processed."""
    for seed in (0, 1):
        shown, other = noise(seed), noise(seed + 10)
        bad = Query(QUESTION, (shown,), raw=True)
        if wrong == "too long":
            bad = Query("left right " * 5000, (shown,))
        good = [Query(QUESTION, (shown,)), Query(QUESTION, (other,))]
        expected = None
        for _ in range(2):
            with pytest.raises(PromptError):
                engine.answer([good[1], bad, good[0]], [None, ScalingVis(alpha=2.0)])
            assert not engine.llm.llm_engine.has_unfinished_requests()
            found = engine.answer(good, [None, ScalingVis(alpha=2.0)], max_new_tokens=2)
            assert expected in (None, found)
            expected = found


def test_what_fails_in_any_way_leaves_no_request_behind(engine, monkeypatch):
    class Panic(BaseException):
        """As a tokenizer in Rust panics."""

    process, calls = InputProcessor.process_inputs, []

    def failing(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise Panic("index out of range")
        return process(self, *arguments, **options)

    queries = [Query(QUESTION, (noise(seed),)) for seed in (20, 21)]
    with monkeypatch.context() as patched:
        patched.setattr(InputProcessor, "process_inputs", failing)
        with pytest.raises(Panic):
            engine.answer(queries, [None])
    assert not engine.llm.llm_engine.has_unfinished_requests()
    together = engine.answer(queries, [None], max_new_tokens=2)[0]
    alone = [engine.answer([query], [None], max_new_tokens=2)[0][0] for query in queries]
    assert [answer.text for answer in together] == [answer.text for answer in alone]


def test_no_text_of_a_question_becomes_a_picture(engine):
    for images in ((), (noise(0),)):
        with pytest.raises(PromptError, match=r"holds <image>, which .* takes for a picture"):
            engine.answer([Query("what is <image>", images)], [None])
    with pytest.raises(PromptError, match="has 2 times the placeholder <image> and comes with 1"):
        engine.answer([Query("<image> what <image>", (noise(0),), raw=True)], [None])


def test_both_engines_see_the_same_picture_in_every_mode(engine, reference):
    shown = noise(3)
    turned = shown.transpose(Image.Transpose.ROTATE_90)
    turned.info["exif"] = orientation_tag(6)
    as_stored = decode_image(encoded(turned, "PNG"), "x", upright=False)
    veiled = Image.merge("RGBA", [*shown.split(), shown.getchannel("R")])
    deep = Image.fromarray(np.asarray(shown.convert("L")).astype(np.uint16) * 257)
    modes = [turned, as_stored, veiled, deep, shown.convert("CMYK"), shown.convert("P")]
    queries = [Query(QUESTION, (picture,)) for picture in [shown, *modes]]
    found = engine.answer(queries, [None], max_new_tokens=2)[0]
    expected = reference.answer(queries, [None], max_new_tokens=2)[0]
    for own, theirs in zip(found, expected, strict=True):
        assert own.text == theirs.text
        assert own.confidence == pytest.approx(theirs.confidence, abs=1e-4)
    assert found[1].confidence == pytest.approx(found[0].confidence, abs=1e-6)
    assert found[2].confidence != pytest.approx(found[0].confidence, abs=1e-6)


def test_a_configuration_given_twice_is_asked_once_and_answered_twice(engine, queries):
    first, other, again = engine.answer(queries[:2], [CONFIGS[1], None, CONFIGS[1]])
    assert first == again
    assert first != other


def test_it_follows_the_protocol_and_describes_itself(engine):
    assert isinstance(engine, Engine)
    described = engine.describe()
    assert described["engine"] == "vllm"
    assert described["dtype"] == "float32"
    assert described["model_type"] == "llava"
    assert described["vllm"].startswith("0.")
    assert all(isinstance(value, str) for value in described.values())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (NormRescale(), "norm_rescale cannot change"),
        (ScalingVis(alpha=2.0, layers=(99,)), "layers: the model has 4 layers"),
    ],
)
def test_configurations_that_vllm_cannot_follow_are_refused(engine, queries, config, words):
    with pytest.raises(ConfigError, match=words):
        engine.answer(queries[:1], [None, config])
    assert engine.answer(queries[:1], [None])[0][0].text


@pytest.mark.parametrize(
    "query",
    [
        Query("<image> what", raw=True),
        Query("what " * 1000),
    ],
)
def test_prompts_that_do_not_fit_are_refused(engine, query):
    with pytest.raises(PromptError):
        engine.answer([query], [None])


def test_an_image_without_its_placeholder_is_refused(engine, queries):
    with pytest.raises(PromptError):
        engine.answer([Query("what", queries[0].images, raw=True)], [None])


def test_what_cannot_be_loaded_is_a_checkpoint_error(tmp_path):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        VLLMEngine.load(tmp_path)
    with pytest.raises(ConfigError, match="dtype"):
        VLLMEngine.load(MODEL, dtype="float23")
    without_weights = tmp_path / "without-weights"
    shutil.copytree(MODEL, without_weights, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(CheckpointError, match="No weights"):
        VLLMEngine.load(without_weights)
    (without_weights / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        VLLMEngine.load(without_weights)
    with pytest.raises(CheckpointError, match="Cannot load"):
        VLLMEngine.load("no-such-organisation/no-such-model")


def test_without_the_plugin_nothing_is_answered(engine, monkeypatch):
    from vllm.v1.engine.input_processor import InputProcessor

    plain = InputProcessor.process_inputs.__wrapped__
    monkeypatch.setattr(InputProcessor, "process_inputs", plain)
    with pytest.raises(UnsupportedError, match=DISABLE):
        VLLMEngine(engine.llm, engine.processor)
