"""Calls that hold prompts and answers: scored as if the answers had been decoded behind them."""

import contextvars
import copy
import threading
import warnings
from contextlib import nullcontext

import pytest
import torch
from hf.eager_reference import Spec, reference
from hf.helpers import CACHE, FAMILIES, TOLERANCE, Case, generate, image
from hf.scoring_batches import Scored
from transformers import DynamicCache, StaticCache

from adaptvis import AdaptVis, AdaptVisWarning, NormRescale, ScalingVis, patch, steer, unpatch
from adaptvis.errors import PromptError, UnsupportedError

ROWS = ["last_prompt_token", "generated", "text_after_image"]
CONFIG = ScalingVis(alpha=1.8)


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)


def all_close(batch, actual, expected) -> None:
    for mine, wanted in zip(batch.of_answers(actual), batch.of_answers(expected), strict=True):
        close(mine, wanted)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_answers_logits_equal_eager_steering_of_its_prompt(family, rows, side):
    batch = Scored(Case(family), side)
    expected, plain = batch.reference(1.8, rows), batch.reference(None)
    with (
        steer(batch.case.model, ScalingVis(alpha=1.8, rows=rows)) as handle,
        torch.no_grad(),
        handle.scoring(batch.lengths),
    ):
        logits = batch.case.model(**batch.inputs).logits
    all_close(batch, logits, expected)
    for mine, before in zip(batch.of_answers(logits), batch.of_answers(plain), strict=True):
        assert (mine - before).abs().amax(-1).min() > 10 * TOLERANCE, "a row is unsteered"
    assert [d.applied for d in handle.last] == [True, True]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
def test_adapt_vis_reads_its_confidence_where_each_prompt_ends(family, side):
    batch = Scored(Case(family), side)
    first = torch.stack([logits[0] for logits in batch.of_answers(batch.reference(None))])
    confidence = first.softmax(-1).amax(-1)
    threshold = float(confidence.mean())
    alpha = torch.where(confidence < threshold, 0.4, 1.6)
    assert len(set(alpha.tolist())) == 2
    config = AdaptVis(alpha_low=0.4, alpha_high=1.6, threshold=threshold)
    with steer(batch.case.model, config, prompt_lengths=batch.lengths) as handle, torch.no_grad():
        logits = batch.case.model(**batch.inputs).logits
    all_close(batch, logits, batch.reference(alpha))
    assert [d.alpha for d in handle.last] == pytest.approx(alpha.tolist())
    assert [d.confidence for d in handle.last] == pytest.approx(confidence.tolist(), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_tell_where_the_prompt_ends_and_the_loss_is_that_of_the_steered_logits(family):
    batch = Scored(Case(family), "left")
    with steer(batch.case.model, CONFIG) as handle, torch.no_grad():
        output = batch.case.model(**batch.inputs, labels=batch.labels)
    expected = batch.reference(1.8)
    all_close(batch, output.logits, expected)
    scores = [
        -logits.log_softmax(-1)[range(len(answer)), answer]
        for logits, answer in zip(batch.of_answers(expected), batch.answers, strict=True)
    ]
    close(output.loss, torch.cat(scores).mean())
    assert all(d.applied for d in handle.last)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
def test_scoring_gives_what_decoding_the_answer_behind_the_prompt_gives(family, rows):
    case = Case(family).alone(1)
    batch = Scored(case, answers=[[52, 19, 60, 33, 41]])
    answer, model = batch.answers[0], case.model
    with steer(model, ScalingVis(alpha=1.8, rows=rows)) as handle, torch.no_grad():
        with handle.scoring(batch.lengths[0]):
            scored = batch.of_answers(model(**batch.inputs).logits)[0]
        forced = Forced(answer)
        _, decoded = generate(model, case.inputs, len(answer), logits_processor=[forced])
    close(scored, decoded[:, 0])


class Forced:
    """A logits processor that lets one answer through."""

    def __init__(self, answer):
        self.answer = list(answer)

    def __call__(self, input_ids, scores):
        chosen = torch.full_like(scores, float("-inf"))
        chosen[:, self.answer.pop(0)] = 0
        return chosen


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("family", ["llava", "gemma3", "paligemma"])
@pytest.mark.parametrize("cache", ["none", "user", "static"])
def test_every_cache_scores_the_same(family, cache, rows):
    batch = Scored(Case(family), "left")
    model, config = batch.case.model, batch.case.decoder.config
    options = {
        "none": {"use_cache": False},
        "user": {CACHE: DynamicCache(config=config)},
        "static": {CACHE: StaticCache(config=config, max_cache_len=100)},
    }[cache]
    with (
        steer(model, ScalingVis(alpha=1.8, rows=rows)) as handle,
        torch.no_grad(),
        handle.scoring(batch.lengths),
    ):
        logits = model(**batch.inputs, **options).logits
    all_close(batch, logits, batch.reference(1.8, rows))


def test_chosen_layers_and_heads_only():
    batch = Scored(Case("llava"), "left")
    with (
        steer(batch.case.model, ScalingVis(alpha=2.5, layers=[1], heads=[0, 2])) as handle,
        handle.scoring(batch.lengths),
        torch.no_grad(),
    ):
        logits = batch.case.model(**batch.inputs).logits
    all_close(batch, logits, batch.reference(2.5, layers=(1,), heads=(0, 2)))


def test_rescaled_norms_compose_with_scoring():
    case = Case("llava").alone(1)
    batch = Scored(case, answers=[[52, 19, 60]])
    with steer(case.model, [CONFIG, NormRescale(target=3.0)]) as handle, torch.no_grad():
        with handle.scoring(batch.lengths):
            scored = batch.of_answers(case.model(**batch.inputs).logits)[0]
        _, decoded = generate(case.model, case.inputs, 3, logits_processor=[Forced([52, 19, 60])])
    close(scored, decoded[:, 0])


def test_several_answers_of_one_prompt_are_scored_side_by_side():
    case = Case("llava", ["where is the cat"] * 3, [[image(0)]] * 3)
    batch = Scored(case, answers=[[31], [44, 27], [52, 19, 60, 33]])
    with steer(case.model, CONFIG, prompt_lengths=batch.lengths[0]), torch.no_grad():
        logits = case.model(**batch.inputs).logits
    all_close(batch, logits, batch.reference(1.8))


def test_an_untouched_prompt_of_a_scored_batch_stays_bit_identical():
    case = Case("llava", ["where is the cat", "no picture here"], [[image(0)], []])
    batch = Scored(case)
    with torch.no_grad():
        plain = case.model(**batch.inputs).logits
        with (
            steer(case.model, CONFIG) as handle,
            handle.scoring(batch.lengths),
            pytest.warns(AdaptVisWarning, match="1 of 2 prompts were not steered"),
        ):
            logits = case.model(**batch.inputs).logits
        with (
            steer(case.model, ScalingVis(alpha=1)) as off,
            off.scoring(batch.lengths),
            pytest.warns(AdaptVisWarning),
        ):
            assert torch.equal(case.model(**batch.inputs).logits, plain)
    assert torch.equal(logits[1], plain[1])
    assert [d.applied for d in handle.last] == [True, False]
    close(batch.of_answers(logits)[0], batch.of_answers(batch.reference(1.8))[0])


@pytest.mark.parametrize("rows", ["last_prompt_token", "generated"])
@pytest.mark.parametrize("told_by", ["lengths", "labels"])
@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_answers_scored_over_the_cache_of_their_prompts(family, told_by, rows):
    case = Case(family)
    answers = [[31, 44, 27, 19], [52, 19, 60, 33]]
    batch = Scored(case, "left", answers)
    expected = batch.reference(1.8, rows)
    new = torch.tensor(answers)
    with steer(case.model, ScalingVis(alpha=1.8, rows=rows)) as handle, torch.no_grad():
        cache = DynamicCache(config=case.decoder.config)
        first = case.model(**case.inputs, **{CACHE: cache}, logits_to_keep=1).logits
        # The usual way to score several answers: a copy of the prompts' cache for each.
        for kept in (copy.deepcopy(cache), cache):
            with handle.scoring(batch.lengths) if told_by == "lengths" else nullcontext():
                logits = case.model(
                    input_ids=new,
                    attention_mask=batch.inputs["attention_mask"],
                    **{CACHE: kept},
                    labels=new if told_by == "labels" else None,
                ).logits
            logits = torch.cat([first, logits[:, :-1]], dim=1)
            for b, wanted in enumerate(batch.of_answers(expected)):
                close(logits[b], wanted)
        assert all(d.applied for d in handle.last)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_answers_scored_one_after_the_other_over_a_cropped_cache(cache):
    case = Case("llava").alone(1)
    length = case.ids.shape[1]
    batches = [Scored(case, answers=[answer]) for answer in ([52, 19, 60], [31, 44])]
    expected = [b.of_answers(b.reference(1.8, "generated"))[0] for b in batches]
    config = case.decoder.config
    with steer(case.model, ScalingVis(alpha=1.8, rows="generated")) as handle, torch.no_grad():
        kept = DynamicCache(config=config)
        if cache == "static":
            kept = StaticCache(config=config, max_cache_len=100)
        first = case.model(**case.inputs, **{CACHE: kept}, logits_to_keep=1).logits
        with handle.scoring(length):
            for batch, wanted in zip(batches, expected, strict=True):
                ids = torch.tensor(batch.answers)
                logits = case.model(input_ids=ids, **{CACHE: kept}).logits
                close(torch.cat([first, logits[:, :-1]], dim=1)[0], wanted)
                if cache == "static":
                    break
                kept.crop(length - kept.get_seq_length())


def test_many_answers_over_one_prompts_repeated_cache():
    case = Case("llava").alone(1)
    answers = torch.tensor([[31, 44, 27], [52, 19, 60]])
    expected = [
        Scored(case, answers=[answer.tolist()]).of_answers(
            Scored(case, answers=[answer.tolist()]).reference(1.8, "generated")
        )[0]
        for answer in answers
    ]
    with steer(case.model, ScalingVis(alpha=1.8, rows="generated")), torch.no_grad():
        cache = DynamicCache(config=case.decoder.config)
        case.model(**case.inputs, **{CACHE: cache}, logits_to_keep=1)
        cache.batch_repeat_interleave(2)
        logits = case.model(input_ids=answers, **{CACHE: cache}, labels=answers).logits
    for b in range(2):
        close(logits[b, :-1], expected[b][1:])


@pytest.mark.parametrize("rows", ["last_prompt_token", "generated"])
def test_a_prompts_beginning_may_be_prefilled_before_it_is_scored(rows):
    case = Case("llava").alone(1)
    batch = Scored(case, answers=[[52, 19, 60]])
    expected = batch.reference(1.8, rows)
    ids, cut = batch.ids, batch.lengths[0] - 3
    pixels = {"pixel_values": case.inputs["pixel_values"]}
    with steer(case.model, ScalingVis(alpha=1.8, rows=rows)) as handle, torch.no_grad():
        cache = DynamicCache(config=case.decoder.config)
        with handle.scoring(batch.lengths):
            case.model(input_ids=ids[:, :cut], **{CACHE: cache}, **pixels)
            assert [d.applied for d in handle.last] == [False]
            logits = case.model(input_ids=ids[:, cut:], **{CACHE: cache}).logits
            assert [d.applied for d in handle.last] == [True]
    close(logits[0, 2:], expected[0, cut + 2 :])


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 2}])
def test_generate_takes_the_prompts_end_too(options):
    # A forced beginning of the answer: "Answer: It is" behind the question.
    case = Case("llava")
    batch = Scored(case, "left")
    rows = batch.rows("last_prompt_token")
    spec = Spec(rows, batch.columns, torch.tensor([1.8, 1.8]))
    expected, _ = generated_by_reference(case, batch, spec, options)
    with steer(case.model, CONFIG) as handle, handle.scoring(batch.lengths):
        sequences, _ = generate(case.model, batch.inputs, **options)
        assert len(handle.last) == 2
    assert torch.equal(sequences, expected)


def generated_by_reference(case, batch, spec, options):
    with reference(case.decoder, spec):
        return generate(case.model, batch.inputs, **{**options, "use_cache": False})


def test_a_forward_call_that_may_hold_an_answer_warns_once_and_says_how_to_mend_it():
    case = Case("llava")
    with steer(case.model, CONFIG) as handle, torch.no_grad():
        with pytest.warns(AdaptVisWarning, match=r"only the last row's.*handle\.scoring"):
            case.model(**case.inputs)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            case.model(**case.inputs)
    # One row, and not the one that is steered.
    other_row = torch.tensor([case.ids.shape[1] - 3])
    with (
        steer(case.model, CONFIG),
        torch.no_grad(),
        pytest.warns(AdaptVisWarning, match="only the last row's"),
    ):
        case.model(**case.inputs, logits_to_keep=other_row)
    with steer(case.model, CONFIG) as handle, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        case.model(**case.inputs, logits_to_keep=1)
        case.model(**case.inputs, logits_to_keep=torch.tensor([case.ids.shape[1] - 1]))
        generate(case.model, case.inputs)
        assert all(d.applied for d in handle.last)


@pytest.mark.parametrize(
    ("lengths", "reason"),
    [
        (0, "positive whole number"),
        (-1, "positive whole number"),
        (1.5, "positive whole number"),
        (True, "positive whole number"),
        ([], "positive whole number"),
        ([[3], [4]], "positive whole number"),
        (torch.tensor([3.0, 4.0]), "positive whole number"),
        ([5], "1 numbers, but this call has 2 rows"),
        ([5, 5, 5], "3 numbers, but this call has 2 rows"),
        (1000, "row 0 has 1000 tokens, but the whole row has"),
        ([53, 1000], "row 1 has 1000 tokens, but the whole row has"),
    ],
)
def test_wrong_prompt_lengths_are_named(lengths, reason):
    batch = Scored(Case("llava"))
    with steer(batch.case.model, CONFIG) as handle, torch.no_grad():
        with pytest.raises(PromptError, match=reason), handle.scoring(lengths):
            batch.case.model(**batch.inputs)
        assert handle.prompt_lengths is None
    with (
        pytest.raises(PromptError, match=reason),
        torch.no_grad(),
        steer(batch.case.model, CONFIG, prompt_lengths=lengths),
    ):
        batch.case.model(**batch.inputs)
    assert "forward" not in batch.case.model.__dict__


@pytest.mark.parametrize("lengths", [[5], [5] * 4, 1000])
def test_wrong_prompt_lengths_are_named_in_generate(lengths):
    batch = Scored(Case("llava"), "left")
    with (
        steer(batch.case.model, CONFIG, prompt_lengths=lengths) as handle,
        pytest.raises(PromptError, match="prompt_lengths"),
    ):
        generate(batch.case.model, batch.inputs, num_beams=2)
    assert handle.last == []


def test_lengths_may_be_a_tensor_and_padding_is_not_counted():
    batch = Scored(Case("llava"), "left")
    expected = batch.reference(1.8)
    handle = patch(batch.case.model, CONFIG, prompt_lengths=torch.tensor(batch.lengths))
    try:
        assert handle.prompt_lengths == tuple(batch.lengths)
        with torch.no_grad():
            all_close(batch, batch.case.model(**batch.inputs).logits, expected)
    finally:
        handle.remove()


def test_a_mask_that_does_not_tell_padding_is_refused():
    batch = Scored(Case("llava"))
    inputs = {**batch.inputs, "attention_mask": batch.inputs["attention_mask"][:, :-1]}
    with (
        steer(batch.case.model, CONFIG, prompt_lengths=batch.lengths),
        torch.no_grad(),
        pytest.raises(PromptError, match="does not say which"),
    ):
        batch.case.model(**inputs)


@pytest.mark.parametrize("training", [True, False])
def test_training_stays_refused(training):
    batch = Scored(Case("llava"))
    model = batch.case.model
    with steer(model, CONFIG) as handle:
        model.train(training)
        try:
            with pytest.raises(UnsupportedError, match="before training"):
                model(**batch.inputs, labels=batch.labels)
            if training:
                with pytest.raises(UnsupportedError, match="before training"), torch.no_grad():
                    model(**batch.inputs, labels=batch.labels)
                model.requires_grad_(True)
                # A loss of one's own, as preference optimisation has it.
                with (
                    pytest.raises(UnsupportedError, match="before training"),
                    handle.scoring(batch.lengths),
                ):
                    model(**batch.inputs)
        finally:
            model.eval().requires_grad_(False)


def test_labels_that_leave_no_prompt_are_reported_not_steered():
    batch = Scored(Case("llava"))
    model = batch.case.model
    expected = batch.reference(1.8)
    with torch.no_grad():
        plain = model(**batch.inputs).logits
        labels = batch.labels.clone()
        labels[0] = batch.ids[0]
        with (
            steer(model, AdaptVis(alpha_low=1.8, alpha_high=1.8)) as handle,
            pytest.warns(AdaptVisWarning, match="1 of 2 prompts were not steered"),
        ):
            logits = model(**batch.inputs, labels=labels).logits
    assert torch.equal(logits[0], plain[0])
    close(batch.of_answers(logits)[1], batch.of_answers(expected)[1])
    assert [d.applied for d in handle.last] == [False, True]
    assert str(handle.last[0].confidence) == "nan"


def test_labels_of_several_answers_are_refused():
    batch = Scored(Case("llava"))
    labels = batch.labels.clone()
    labels[1, batch.ends[1] + 2] = -100
    with steer(batch.case.model, CONFIG) as handle, torch.no_grad():
        with pytest.raises(PromptError, match="labels of row 1 are in 2 pieces"):
            batch.case.model(**batch.inputs, labels=labels)
        with handle.scoring(batch.lengths):
            batch.case.model(**batch.inputs, labels=labels)
        with pytest.raises(PromptError, match="one label per token"):
            batch.case.model(**batch.inputs, labels=labels[:, 1:])


def test_scoring_over_a_prompt_that_was_not_steered_is_refused():
    case = Case("llava").alone(1)
    answer = torch.tensor([[31, 44, 27]])
    cache = DynamicCache(config=case.decoder.config)
    unseen = DynamicCache(config=case.decoder.config)
    with torch.no_grad(), steer(case.model, CONFIG) as handle:
        case.model(**case.inputs, **{CACHE: cache}, logits_to_keep=1)
        with (
            pytest.raises(PromptError, match="in the cache already"),
            handle.scoring(case.ids.shape[1] - 2),
        ):
            case.model(input_ids=answer, **{CACHE: cache})
        with handle.paused():
            case.model(**case.inputs, **{CACHE: unseen})
        with pytest.raises(PromptError, match="has not seen"):
            case.model(input_ids=answer, **{CACHE: unseen}, labels=answer)


def test_prompts_that_end_in_different_calls_are_refused():
    batch = Scored(Case("llava"), "right")
    cut = min(batch.ends)
    inputs = {k: v[:, :cut] if v.shape == batch.ids.shape else v for k, v in batch.inputs.items()}
    cache = DynamicCache(config=batch.case.decoder.config)
    with (
        steer(batch.case.model, CONFIG, prompt_lengths=batch.lengths),
        torch.no_grad(),
        pytest.raises(PromptError, match="end in the same call"),
    ):
        batch.case.model(**inputs, **{CACHE: cache})


def test_decoding_behind_a_prompt_that_came_in_unsteered_is_reported():
    case = Case("llava").alone(1)
    cache = DynamicCache(config=case.decoder.config)
    with torch.no_grad():
        case.model(**case.inputs, **{CACHE: cache})
        with steer(case.model, CONFIG) as handle:
            with pytest.warns(AdaptVisWarning, match="while it was not steered"):
                case.model(input_ids=case.ids[:, -1:], **{CACHE: cache})
            assert [d.applied for d in handle.last] == [False]


def test_scoring_belongs_to_its_block():
    handle = patch(Case("llava").model, CONFIG, prompt_lengths=7)
    try:
        with handle.scoring([3, 4]):
            assert handle.prompt_lengths == (3, 4)
            with handle.scoring(5):
                assert handle.prompt_lengths == 5
            assert handle.prompt_lengths == (3, 4)
        assert handle.prompt_lengths == 7
    finally:
        unpatch(Case("llava").model)


def test_a_plain_thread_started_while_scoring_is_told_that_it_does_not_score():
    batch = Scored(Case("llava"))
    model = batch.case.model
    handle = patch(model, ScalingVis(alpha=1.8))
    scores = {}

    def score(name):
        with torch.no_grad():
            scores[name] = batch.of_answers(model(**batch.inputs).logits)

    def in_a_thread(*target):
        thread = threading.Thread(target=target[0], args=target[1:])
        thread.start()
        thread.join()

    try:
        with handle.scoring(batch.lengths):
            score("here")
            in_a_thread(contextvars.copy_context().run, score, "copied")
            for _ in range(2):
                with pytest.warns(AdaptVisWarning, match="scoring belongs to another thread"):
                    in_a_thread(score, "plain")
    finally:
        handle.remove()
    for here, copied in zip(scores["here"], scores["copied"], strict=True):
        assert torch.equal(here, copied)
