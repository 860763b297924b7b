"""Ways into a model beside one plain ``generate``: assistants, callbacks, continuous batching."""

import copy
import inspect
import itertools
import warnings

import pytest
import torch
from hf.helpers import TOLERANCE, Case, generate, image
from hf.scoring_batches import Scored
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)

from adaptvis import AdaptVis, AdaptVisWarning, ScalingVis, patch, steer
from adaptvis.errors import ConfigError, UnsupportedError

CONFIG = AdaptVis(alpha_low=1.5, alpha_high=1.8, threshold=0.0)
STEPS = 8


@pytest.fixture(scope="module")
def case():
    return Case("llava", ["where is the cat"], [[image(0)]])


@pytest.fixture(scope="module")
def expected(case):
    """Tokens of eager steering, and the unsteered confidence."""
    confidence = case.reference(None, steps=1)[1][0].softmax(-1).amax().item()
    return case.reference(1.8, steps=STEPS)[0], confidence


class Look(StoppingCriteria):
    """Keeps what ``handle.last`` says after every token; may ask the model something else."""

    def __init__(self, handle, ask=None):
        self.handle, self.ask, self.seen = handle, ask, []

    def __call__(self, input_ids, scores, **_):
        self.seen.append([d.confidence for d in self.handle.last])
        if self.ask is not None:
            self.ask()
        return torch.zeros(len(input_ids), dtype=torch.bool)


def answer(case, **options):
    return case.model.generate(
        **case.inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, do_sample=False, **options
    )


@pytest.mark.parametrize("assistant", ["itself", "unpatched copy", "patched copy", "lookup"])
def test_last_is_the_main_prompts_decision_under_assisted_generation(case, expected, assistant):
    tokens, confidence = expected
    other = case.model if assistant == "itself" else copy.deepcopy(case.model)
    options = {"prompt_lookup_num_tokens": 2} if assistant == "lookup" else {}
    other_handle = patch(other, ScalingVis(alpha=0.5)) if assistant == "patched copy" else None
    with steer(case.model, CONFIG) as handle:
        look = Look(handle)
        options = options or {"assistant_model": other}
        found = answer(case, stopping_criteria=StoppingCriteriaList([look]), **options)
        assert [d.confidence for d in handle.last] == pytest.approx([confidence], abs=1e-5)
        # transformers 5.17 asks once before the prompt has run.
        after = list(itertools.dropwhile(lambda seen: not seen, look.seen))
        assert len(after) in (len(look.seen), len(look.seen) - 1)
        assert after
        assert all(seen == pytest.approx([confidence], abs=1e-5) for seen in after)
    assert torch.equal(found, tokens)
    if other_handle is not None:
        assert other_handle.last[0].alpha == 0.5


def test_last_is_that_of_the_call_that_returned_although_a_callback_asked_the_model(case, expected):
    tokens, confidence = expected
    two = Case("llava", ["right or left", "what"])
    with steer(case.model, CONFIG) as handle:
        look = Look(handle, lambda: generate(case.model, two.inputs, steps=1))
        found = answer(case, stopping_criteria=StoppingCriteriaList([look]))
        assert [d.confidence for d in handle.last] == pytest.approx([confidence], abs=1e-5)
        assert [len(seen) for seen in look.seen] == [1] + [2] * (STEPS - 1)
    assert torch.equal(found, tokens)


ROWS = ["last_prompt_token", "generated", "text_after_image"]


@pytest.mark.parametrize("rows", ROWS)
def test_what_a_callback_asks_unsteered_is_unsteered(case, rows):
    config = ScalingVis(alpha=1.8, rows=rows)
    with torch.no_grad():
        generated = generate(case.model, case.inputs)[1]
        prefilled = case.model(**case.inputs).logits
    asked = []

    def ask():
        with handle.paused(), torch.no_grad():
            asked.append((generate(case.model, case.inputs)[1], generated))
            asked.append((case.model(**case.inputs).logits, prefilled))
        with steer(case.model, None), torch.no_grad():
            asked.append((generate(case.model, case.inputs)[1], generated))

    with steer(case.model, config) as handle:
        undisturbed = answer(case)
        found = answer(case, stopping_criteria=StoppingCriteriaList([Look(handle, ask)]))
    assert torch.equal(found, undisturbed)
    assert asked
    for mine, plain in asked:
        assert torch.equal(mine, plain)


@pytest.mark.parametrize("rows", ROWS)
def test_what_a_callback_scores_is_steered_by_its_own_prompt(case, rows):
    other = Scored(Case("llava", ["right or left"], [[image(7)]]), answers=[[52, 19, 60]])
    expected = other.of_answers(other.reference(1.8, rows))[0]
    asked = []

    def ask():
        with handle.scoring(other.lengths), torch.no_grad():
            asked.append(other.of_answers(case.model(**other.inputs).logits)[0])

    with steer(case.model, ScalingVis(alpha=1.8, rows=rows)) as handle:
        undisturbed = answer(case)
        found = answer(case, stopping_criteria=StoppingCriteriaList([Look(handle, ask)]))
    assert torch.equal(found, undisturbed)
    assert asked
    for mine in asked:
        torch.testing.assert_close(mine, expected, atol=TOLERANCE, rtol=TOLERANCE)


# Named otherwise before transformers 5.18, which has no switch yet.
_NAMES = inspect.signature(ContinuousBatchingConfig).parameters
PAGES = {"page_size" if "page_size" in _NAMES else "block_size": 32} | (
    {"auto_switch_to_flash": False} if "auto_switch_to_flash" in _NAMES else {}
)


def paged(case, manager=None):
    """Tokens by continuous batching."""
    options = {
        "generation_config": GenerationConfig(max_new_tokens=2, do_sample=False, eos_token_id=-1),
        "continuous_batching_config": ContinuousBatchingConfig(
            num_blocks=8, max_batch_tokens=64, **PAGES
        ),
    }
    if manager == "make":
        return case.model.init_continuous_batching(**options)
    ids = case.ids[0].tolist()
    return next(iter(case.model.generate_batch([ids], warmup=False, **options).values()))


@pytest.mark.filterwarnings("ignore")
def test_continuous_batching_is_refused_where_it_would_be_steered_and_only_there(case):
    model = case.model
    plain = paged(case).generated_tokens
    assert len(plain) == 2
    with steer(model, CONFIG) as handle:
        for call in (
            lambda: paged(case),
            lambda: paged(case, "make"),
            lambda: model.continuous_batching_context_manager().__enter__(),
            lambda: model.generate(**case.inputs, cache_implementation="paged"),
        ):
            with pytest.raises(UnsupportedError, match="cannot be steered; call generate"):
                call()
        with handle.paused():
            assert paged(case).generated_tokens == plain
        with steer(model, None):
            assert paged(case).generated_tokens == plain


@pytest.mark.filterwarnings("ignore")
def test_a_continuous_batch_that_began_before_the_patch_fails_instead_of_being_half_steered(case):
    manager = paged(case, "make")
    with patch_of(case.model, CONFIG):
        manager.start()
        request = manager.add_request(case.ids[0].tolist(), max_new_tokens=2)
        result = manager.get_result(request, timeout=30)
        manager.stop(block=True)
    assert "cannot be steered" in result.error


class patch_of:
    def __init__(self, model, config):
        self.handle = patch(model, config)

    def __enter__(self):
        return self.handle

    def __exit__(self, *_):
        self.handle.remove()


def test_calling_past_the_models_forward_says_that_nothing_is_steered(case):
    inner, language = case.model.model, case.decoder
    embeds = case.model.get_input_embeddings()(case.ids)
    with torch.no_grad():
        plain = inner(**case.inputs).last_hidden_state
        with steer(case.model, CONFIG) as handle:
            for call in (lambda: inner(**case.inputs), lambda: language(inputs_embeds=embeds)):
                with pytest.warns(AdaptVisWarning, match="past adaptvis's patch"):
                    out = call()
            with pytest.warns(AdaptVisWarning, match="past adaptvis's patch"):
                out = inner(**case.inputs)
            torch.testing.assert_close(out.last_hidden_state, plain, rtol=0, atol=TOLERANCE)
            with warnings.catch_warnings():
                warnings.simplefilter("error", AdaptVisWarning)
                case.model(**case.inputs, logits_to_keep=1)
                answer(case)
                with handle.paused():
                    inner(**case.inputs)


def test_a_steer_block_that_is_never_entered_is_told(case):
    with pytest.warns(AdaptVisWarning, match="never entered, so nothing was steered"):
        steer(case.model, CONFIG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with steer(case.model, CONFIG):
            pass

        @steer(case.model, CONFIG)
        def decorated():
            return answer(case)

        decorated()
        del decorated


def test_scoring_by_a_handle_that_steers_no_more_is_refused(case):
    with steer(case.model, CONFIG) as handle:
        pass
    with pytest.raises(UnsupportedError, match="or its block left"), handle.scoring(5):
        pass


def test_a_configurations_class_is_told_from_a_configuration(case):
    with pytest.raises(ConfigError, match=r"got the class; write AdaptVis\(\.\.\.\)"):
        patch(case.model, AdaptVis)
