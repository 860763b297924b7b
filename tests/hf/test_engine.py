"""The transformers engine: shared prefill, batch invariance, reasons, and bad models."""

import copy
from importlib.util import find_spec

import pytest
from hf.helpers import FAMILIES, Case, image

from adaptvis import AdaptVis, NormRescale, ScalingVis, steer
from adaptvis.cli.models import embedded_models
from adaptvis.engine import Engine, Query
from adaptvis.errors import CheckpointError, ConfigError, PromptError, UnknownFamilyError
from adaptvis.hf.engine import HFEngine

pytestmark = pytest.mark.filterwarnings("ignore:.*pad_token_id")

CONFIGS = [
    None,
    ScalingVis(alpha=2.0),
    ScalingVis(alpha=0.5, rows="text_after_image"),
    AdaptVis(threshold=0.4),
    ScalingVis(alpha=2.0, rows="generated"),
    NormRescale(),
]
QUERIES = [
    Query("where is the cat", (image(0),)),
    Query("what", (image(1),)),
    Query("left or right of the dog", (image(2),)),
]


def engine_for(family: str) -> HFEngine:
    case = Case(family)
    return HFEngine(case.model, case.processor)


def same(first, second) -> None:
    assert first.token_ids == second.token_ids
    assert first.confidence == pytest.approx(second.confidence, abs=1e-4)
    assert (first.alpha, first.applied, first.reason) == (
        second.alpha,
        second.applied,
        second.reason,
    )


# SmolVLM's chat template asks its video processor, which needs torchvision.
@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "smolvlm"])
def test_sharing_the_prefill_and_batching_change_no_answer(family):
    engine = engine_for(family)
    together = engine.answer(QUERIES, CONFIGS, max_new_tokens=4)
    for index, config in enumerate(CONFIGS):
        for query, answer in zip(QUERIES, together[index], strict=True):
            same(answer, engine.answer([query], [config], max_new_tokens=4)[0][0])


def test_answers_are_those_of_a_patched_generate():
    case = Case("llava")
    engine = engine_for("llava")
    query = QUERIES[0]
    for config, (answer,) in zip(
        CONFIGS, engine.answer([query], CONFIGS, max_new_tokens=4), strict=True
    ):
        inputs = engine.encode([query])
        with steer(case.model, config):
            tokens = case.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        assert answer.token_ids == tuple(tokens[0, inputs["input_ids"].shape[1] :].tolist())


def test_a_query_without_image_is_answered_and_says_why_it_was_not_steered():
    answers = engine_for("qwen2_vl").answer(
        [QUERIES[0], Query("no picture")], [ScalingVis(alpha=2.0)], max_new_tokens=2
    )[0]
    assert [answer.applied for answer in answers] == [True, False]
    assert answers[1].reason == "the prompt has no image tokens"


def test_one_of_two_adjacent_images_is_told_apart_with_a_shared_prefill_too():
    engine = engine_for("llava")
    query = Query("where is the cat", (image(0), image(1)))
    first, second = ScalingVis(alpha=8.0, images=[0]), ScalingVis(alpha=8.0, images=[1])
    shared = engine.answer([query], [None, first, second], max_new_tokens=4)
    for config, (answer,) in zip([None, first, second], shared, strict=True):
        same(answer, engine.answer([query], [config], max_new_tokens=4)[0][0])
    assert [answers[0].applied for answers in shared] == [False, True, True]


def test_it_is_an_engine_and_describes_itself():
    engine = engine_for("llava")
    assert isinstance(engine, Engine)
    assert engine.describe()["model_type"] == "llava"
    assert engine.describe()["dtype"] == "float32"
    assert engine.describe()["image_processor"] == "LlavaImageProcessorPil"
    assert engine.describe()["image_backend"] == "pil"


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_an_image_backend_that_is_not_installed_is_refused():
    with pytest.raises(ConfigError, match="cannot use torchvision here; install torchvision"):
        HFEngine.load(embedded_models()["tiny-2ds-seed0"], image_backend="torchvision")


def test_raw_prompts_go_to_the_processor_as_they_are():
    engine = engine_for("llava")
    ids = engine.encode([Query("USER: <image> cat", (image(0),), raw=True)])["input_ids"]
    text = engine.processor.tokenizer.decode(ids[0]).lower()
    assert text.count("cat") == 1
    # In the processor's own words from transformers 5.23 on.
    found = r"2 images and has 0 image tokens|0 <image> tokens and 2 images"
    with pytest.raises(PromptError, match=found):
        engine.encode([Query("no placeholder", (image(0), image(1)), raw=True)])


def test_missing_incomplete_and_foreign_checkpoints_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="No model at"):
        HFEngine.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        HFEngine.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UnknownFamilyError, match="Unknown model family 'llama'"):
        HFEngine.load(tmp_path)
    with pytest.raises(ConfigError, match="dtype must be one of"):
        HFEngine.load(tmp_path, dtype="int3")


def test_a_saved_model_loads_and_answers_the_same(tmp_path):
    case = Case("llava")
    case.model.save_pretrained(tmp_path)
    case.processor.save_pretrained(tmp_path)
    before = engine_for("llava").answer(QUERIES, CONFIGS[:2], max_new_tokens=3)
    after = HFEngine.load(tmp_path).answer(QUERIES, CONFIGS[:2], max_new_tokens=3)
    for old, new in zip(before, after, strict=True):
        assert [a.token_ids for a in old] == [a.token_ids for a in new]


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused_alone():
    engine = engine_for("llava")
    length = int(engine.encode(QUERIES[:1])["input_ids"].shape[1])
    positions = engine.model.config.text_config
    positions.max_position_embeddings = length + 1
    assert engine.answer(QUERIES[:1], [None], max_new_tokens=1)[0][0].token_ids
    positions.max_position_embeddings = length
    with pytest.raises(PromptError, match=f"{length} tokens .* context of {length}"):
        engine.answer(QUERIES[:1], [None])
    # Padding does not count.
    assert len(engine.answer([QUERIES[1], QUERIES[1]], [None], max_new_tokens=1)[0]) == 2


def test_stretched_positions_have_no_known_end():
    engine = engine_for("llava")
    text = engine.model.config.text_config
    text.max_position_embeddings = 2
    text.rope_parameters = text.rope_parameters | {"rope_type": "linear", "factor": 8.0}
    assert engine.encode(QUERIES[:1])


@pytest.mark.parametrize(
    "settings",
    [
        # As a training script leaves it.
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"num_return_sequences": 3, "do_sample": True, "top_k": 5},
        {"prompt_lookup_num_tokens": 2},
        {"output_attentions": True, "output_hidden_states": True},
        {"prefill_chunk_size": 8},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_how_a_checkpoint_generates_by_itself_changes_no_answer(settings):
    expected = engine_for("llava").answer(QUERIES, CONFIGS, max_new_tokens=4)
    case = Case("llava")
    model = copy.deepcopy(case.model)
    model.generation_config.update(**settings)
    own = model.generation_config
    answers = HFEngine(model, case.processor).answer(QUERIES, CONFIGS, max_new_tokens=4)
    for group, wanted in zip(answers, expected, strict=True):
        for answer, one in zip(group, wanted, strict=True):
            same(answer, one)
    assert model.generation_config is own
