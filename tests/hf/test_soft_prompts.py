"""Columns that no token stands for: PEFT's soft prompts, and prompts given as embeddings too."""

import copy
import warnings

import pytest
import torch
from hf.eager_reference import Spec, reference
from hf.helpers import CACHE, STEPS, TOLERANCE, Case, generate
from hf.scoring_batches import Scored
from transformers import DynamicCache

from adaptvis import AdaptVis, ScalingVis, steer
from adaptvis.errors import PromptError, UnsupportedError
from adaptvis.hf.families import family_for
from adaptvis.hf.library import soft_prompt_fault

peft = pytest.importorskip("peft")
VIRTUAL = 3
ROWS = ["last_prompt_token", "generated", "text_after_image"]
CONFIGS = {
    "prefix": peft.PrefixTuningConfig,
    "prompt": peft.PromptTuningConfig,
    "p-tuning": peft.PromptEncoderConfig,
}


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)


def tuned(case, kind):
    """The family's model with a random soft prompt, as PEFT makes it."""
    text = case.model.config.get_text_config()
    heads = text.num_key_value_heads if kind == "prefix" else text.num_attention_heads
    config = CONFIGS[kind](
        task_type="CAUSAL_LM",
        num_virtual_tokens=VIRTUAL,
        num_layers=text.num_hidden_layers,
        num_attention_heads=heads,
        token_dim=heads * text.head_dim if kind == "prefix" else text.hidden_size,
    )
    torch.manual_seed(0)
    return peft.get_peft_model(copy.deepcopy(case.model), config).eval()


def spec_of(case, rows, alpha=1.8):
    """Rows and columns of the prompt with the soft prompt in front."""
    chosen = case.text_rows() if rows == "text_after_image" else case.last_row
    front = torch.zeros(len(case.ids), VIRTUAL, dtype=torch.bool)
    alpha = torch.as_tensor(alpha).expand(len(case.ids))
    return Spec(
        torch.cat([front, chosen], dim=1),
        torch.cat([front, case.columns], dim=1),
        alpha,
        generated_rows=rows == "generated",
    )


def eager(case, model, spec, **options):
    decoder = family_for(case.model.config).decoder_of(model.get_base_model())
    with reference(decoder, spec):
        return generate(model, case.inputs, **options)


def unless_lost(model):
    """Skips where PEFT itself loses the prompt; that it is refused is what has to be seen."""
    if fault := soft_prompt_fault(model, CACHE):
        pytest.skip(fault)


@pytest.mark.parametrize("kind", CONFIGS)
def test_generate_is_refused_where_peft_loses_its_soft_prompt(kind, monkeypatch):
    case = Case("llava")
    model = tuned(case, kind)
    name = f"{CACHE}_named_anew" if not soft_prompt_fault(model, CACHE) else CACHE
    with steer(model, ScalingVis(alpha=1.8)) as handle:
        monkeypatch.setattr(handle._stack.patched, "_cache_name", name)
        with pytest.raises(UnsupportedError, match=f"hands no soft prompt.* cache {name}"):
            generate(model, case.inputs)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("family", ["llava", "gemma3", "paligemma", "internvl"])
def test_generate_behind_a_soft_prompt_equals_eager_steering(family, kind, rows):
    case = Case(family)
    model = tuned(case, kind)
    unless_lost(model)
    expected = eager(case, model, spec_of(case, rows))
    plain = generate(model, case.inputs)[1]
    with steer(model, ScalingVis(alpha=1.8, rows=rows)) as handle:
        sequences, logits = generate(model, case.inputs)
    close(logits, expected[1])
    assert torch.equal(sequences, expected[0])
    assert (logits[0] - plain[0]).abs().max() > 100 * TOLERANCE
    assert [d.applied for d in handle.last] == [True, True]


# PEFT's prefix tuning itself loses the prompt without a cache.
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("prefix", {"num_beams": 2}),
        ("prompt", {"num_beams": 2}),
        ("prompt", {"use_cache": False}),
        ("p-tuning", {"use_cache": False}),
    ],
)
def test_soft_prompts_without_a_cache_and_with_beams(kind, options):
    case = Case("llava")
    model = tuned(case, kind)
    unless_lost(model)
    expected = eager(case, model, spec_of(case, "last_prompt_token"), **options)
    with steer(model, ScalingVis(alpha=1.8)) as handle:
        sequences, logits = generate(model, case.inputs, **options)
    assert torch.equal(sequences, expected[0])
    assert len(handle.last) == 2
    if "num_beams" not in options:
        close(logits, expected[1])


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_confidence_is_that_of_the_prompts_last_token(kind):
    case = Case("llava")
    model = tuned(case, kind)
    unless_lost(model)
    plain = generate(model, case.inputs, steps=1)[1][0].softmax(-1).amax(-1)
    with steer(model, AdaptVis()) as handle:
        generate(model, case.inputs)
    assert [d.confidence for d in handle.last] == pytest.approx(plain.tolist(), abs=1e-5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_answers_are_scored_behind_a_prefix_in_the_cache(family, rows):
    case = Case(family)
    batch = Scored(case, "left")
    model = tuned(case, "prefix")
    front = torch.zeros(len(case.ids), VIRTUAL, dtype=torch.bool)
    chosen = torch.cat([front, batch.rows(rows)], dim=1)
    spec = Spec(chosen, torch.cat([front, batch.columns], dim=1), torch.tensor([1.8, 1.8]))
    decoder = family_for(case.model.config).decoder_of(model.get_base_model())
    with torch.no_grad():
        with reference(decoder, spec):
            expected = model(**batch.inputs).logits
        with steer(model, ScalingVis(alpha=1.8, rows=rows)) as handle:
            told = model(**batch.inputs, labels=batch.labels).logits
            with handle.scoring(batch.lengths):
                scored = model(**batch.inputs).logits
    for logits in (told, scored):
        for mine, wanted in zip(batch.of_answers(logits), batch.of_answers(expected), strict=True):
            close(mine, wanted)


def test_what_cannot_be_seen_in_a_plain_call_is_refused_with_the_reason():
    case = Case("llava")
    model = tuned(case, "prompt")
    with (
        steer(model, ScalingVis(alpha=2)),
        torch.no_grad(),
        pytest.raises(PromptError, match="embeddings alone, as PEFT's prompt tuning"),
    ):
        model(**case.inputs)
    model = tuned(case, "prefix")
    # Patched inside PEFT's model, adaptvis cannot know how many columns are virtual.
    with (
        steer(model.get_base_model(), ScalingVis(alpha=2)),
        torch.no_grad(),
        pytest.raises(PromptError, match="soft prefix"),
    ):
        model(**case.inputs)


def test_a_soft_prefix_of_ones_own_is_refused_where_its_columns_are_unknown():
    case = Case("llava")
    cache = DynamicCache(config=case.decoder.config)
    with torch.no_grad():
        case.model(inputs_embeds=torch.randn(2, 4, 64), **{CACHE: cache})
        mask = torch.nn.functional.pad(case.inputs["attention_mask"], (4, 0), value=1)
        inputs = {**case.inputs, "attention_mask": mask}
        with steer(case.model, ScalingVis(alpha=2)):
            with pytest.raises(PromptError, match="soft prefix"):
                case.model(**inputs, **{CACHE: cache})
            with pytest.raises(PromptError, match="soft prefix"):
                generate(case.model, inputs, **{CACHE: cache})


def embedded(case):
    """The prompts as embeddings with the images in place."""
    model = case.model
    embeds = model.get_input_embeddings()(case.ids)
    features = model.model.get_image_features(case.inputs["pixel_values"]).pooler_output
    return embeds.masked_scatter(case.columns[..., None], torch.cat(list(features)))


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}])
@pytest.mark.parametrize("rows", ROWS)
def test_ids_tell_where_the_images_of_embeddings_are(rows, options):
    case = Case("llava")
    inputs = {"input_ids": case.ids, "attention_mask": case.inputs["attention_mask"]}
    chosen = case.text_rows() if rows == "text_after_image" else case.last_row
    spec = Spec(chosen, case.columns, torch.tensor([1.8, 1.8]), rows == "generated")
    inputs["inputs_embeds"] = embedded(case)
    with reference(case.decoder, spec):
        expected = generate(case.model, inputs, **options)
    with steer(case.model, ScalingVis(alpha=1.8, rows=rows)), warnings.catch_warnings():
        warnings.simplefilter("error")
        sequences, logits = generate(case.model, inputs, **options)
    assert torch.equal(sequences, expected[0])
    close(logits[0], expected[1][0])
    assert len(logits) == STEPS


def test_ids_and_embeddings_of_different_lengths_are_refused():
    case = Case("llava")
    inputs = {"input_ids": case.ids[:, 2:], "inputs_embeds": embedded(case)}
    columns = case.ids.shape[1]
    with (
        steer(case.model, ScalingVis(alpha=2)),
        pytest.raises(PromptError, match=f"{columns - 2} columns for the {columns} of inputs_emb"),
    ):
        generate(case.model, inputs)
