"""Attention at chosen rows against full matrices of transformers' eager attention."""

import math

import numpy as np
import pytest
import torch
from diagnostics.helpers import PROMPT, TinyEngine, full_matrices, query
from hf.eager_reference import Spec, reference
from hf.helpers import FAMILIES
from hf.tiny_families import HIDDEN
from torch.utils._python_dispatch import TorchDispatchMode

from adaptvis.config import Amplify, NormRescale, ScalingVis
from adaptvis.diagnostics.attention.capture import attend, observe_prompt
from adaptvis.diagnostics.attention.parts import LAST_ROW, TEXT_ROWS
from adaptvis.diagnostics.rope.measure import probe_prompt
from adaptvis.engine import Query
from adaptvis.errors import PromptError, UnsupportedError
from adaptvis.hf.attention import attention_configs
from adaptvis.hf.observation import observed_attention
from adaptvis.hf.patch import steer
from adaptvis.steering.directions import write_directions

WORDS = ("left", "red")
MEASURES = ("entropy", "system", "text", "image", "markup", "weights")


def user_words(engine, ids: list[int], prompt: str = PROMPT) -> range:
    """Where the prompt's words stand; the vocabulary has one token for each."""
    tokens = engine.processor.tokenizer.convert_ids_to_tokens(ids)
    words = prompt.split()
    (start,) = (i for i in range(len(tokens)) if tokens[i : i + len(words)] == words)
    return range(start, start + len(words))


def by_hand(matrix: torch.Tensor, row: int, ids: list[int], placeholder: int, words: range):
    """Per head (entropy, system, text, image) of one row of a full matrix, by plain loops."""
    found = []
    for weights in matrix[:, row].double().tolist():
        # The tiny templates have no system prompt, and their tokenizers add no token before it;
        # PaliGemma's processor writes a beginning of sequence.
        system = sum(w for w, i in zip(weights, ids, strict=True) if i == 1)
        image = [w for w, i in zip(weights, ids, strict=True) if i == placeholder]
        text = sum(weights[i] for i in words)
        seen = [w for w in image if w > 0]
        total = sum(seen)
        entropy = math.nan
        if len(seen) > 1:
            entropy = -sum(w / total * math.log(w / total) for w in seen) / math.log(len(seen))
        found.append((entropy, system, text, total, 1 - system - text - total))
    return np.array(found).T


@pytest.mark.parametrize("family", [*FAMILIES, "adaptvis_llava"])
def test_rows_equal_full_matrices(family) -> None:
    engine = TinyEngine(family)
    inputs = engine.encode([query()])
    ids = inputs["input_ids"][0].tolist()
    placeholder = engine.model.config.image_token_id
    matrices = full_matrices(engine, inputs)
    found, same = attend(engine, query(), words=WORDS)
    assert same is found
    assert list(found.rows) == [LAST_ROW, TEXT_ROWS, *WORDS]
    assert found.entropy.shape == (len(matrices), 4, matrices[0].shape[0])
    vocabulary = engine.processor.tokenizer.convert_ids_to_tokens(ids)
    rows = [len(ids) - 1, vocabulary.index("left"), vocabulary.index("red")]
    columns = [i for i, token in enumerate(ids) if token == placeholder]
    assert found.tokens[2] == len(columns)
    assert sum(found.tokens) == len(ids)
    assert found.from_template
    words = user_words(engine, ids)
    assert found.tokens[1] == len(words) == 10
    first = ids.index(placeholder)
    text_rows = [n for n in range(first, len(ids)) if ids[n] != placeholder]
    for layer, matrix in enumerate(matrices):
        matrix = torch.cat([matrix, matrix[:, text_rows].mean(dim=1, keepdim=True)], dim=1)
        for index, row in enumerate([rows[0], -1, *rows[1:]]):
            wanted = by_hand(matrix, row, ids, placeholder, words)
            for name, values in zip(MEASURES[:5], wanted, strict=True):
                np.testing.assert_allclose(
                    getattr(found, name)[layer, index], values, atol=1e-5, err_msg=name
                )
            np.testing.assert_allclose(
                found.weights[layer, index], matrix[:, row, columns].mean(dim=0), atol=1e-5
            )


def steered_matrices(engine, inputs, rows, alpha, **options):
    """Attention weights [H, N, N] of every layer, steered in full by the tests' own attention."""
    ids = inputs["input_ids"]
    decoder = engine.family.decoder_of(engine.model)
    columns = ids == engine.model.config.image_token_id
    matrices = []

    def keep(module, args, output):
        if hasattr(module, "layer_idx") and isinstance(output, tuple) and output[1] is not None:
            matrices.append(output[1][0])

    hooks = [module.register_forward_hook(keep) for module in decoder.modules()]
    try:
        with torch.no_grad(), reference(decoder, Spec(rows, columns, alpha, **options)):
            engine.model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return matrices


@pytest.mark.parametrize("rows", ["last_prompt_token", "text_after_image"])
@pytest.mark.parametrize(
    "family", ["llava", "adaptvis_llava", "qwen2_vl", "gemma3", "paligemma", "idefics3"]
)
def test_steered_rows_equal_full_matrices(family, rows) -> None:
    engine = TinyEngine(family)
    inputs = engine.encode([query()])
    ids = inputs["input_ids"][0].tolist()
    placeholder = engine.model.config.image_token_id
    columns = inputs["input_ids"] == placeholder
    first = ids.index(placeholder)
    text_rows = [n for n in range(first, len(ids)) if ids[n] != placeholder]
    words = user_words(engine, ids)
    steered_rows = torch.zeros_like(columns)
    steered_rows[0, text_rows if rows == "text_after_image" else -1] = True
    matrices = steered_matrices(engine, inputs, steered_rows, torch.tensor([2.5]), layers=(1, 2))
    config = ScalingVis(alpha=2.5, rows=rows, layers=(1, 2))
    plain, steered = attend(engine, query(), config, words=WORDS)
    assert not np.allclose(plain.image, steered.image, atol=1e-3)
    vocabulary = engine.processor.tokenizer.convert_ids_to_tokens(ids)
    looked_at = [len(ids) - 1, -1, vocabulary.index("left"), vocabulary.index("red")]
    for layer, matrix in enumerate(matrices):
        matrix = torch.cat([matrix, matrix[:, text_rows].mean(dim=1, keepdim=True)], dim=1)
        for index, row in enumerate(looked_at):
            wanted = by_hand(matrix, row, ids, placeholder, words)
            for name, values in zip(MEASURES[:5], wanted, strict=True):
                np.testing.assert_allclose(
                    getattr(steered, name)[layer, index], values, atol=2e-5, err_msg=name
                )


def test_norms_are_rescaled_for_the_second_look() -> None:
    engine = TinyEngine("llava")
    plain, rescaled = attend(engine, query(), NormRescale(target=30.0))
    assert not np.allclose(plain.image, rescaled.image, atol=1e-4)


def look(found, name: str) -> np.ndarray:
    return np.nan_to_num(getattr(found, name))


def amplify(folder) -> Amplify:
    torch.manual_seed(0)
    vectors = {"horizontal": torch.randn(HIDDEN), "vertical": torch.randn(HIDDEN)}
    path = write_directions(folder / "directions.safetensors", vectors, {})
    return Amplify(directions=path, alpha=6.0)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_amplified_image_tokens_are_looked_at_as_the_patched_model_sees_them(
    family, tmp_path
) -> None:
    engine = TinyEngine(family)
    config = amplify(tmp_path)
    plain, amplified = attend(engine, query(), config)
    assert not np.allclose(plain.image, amplified.image, atol=1e-3)
    inputs = engine.encode([query()])
    ids = inputs["input_ids"][0].tolist()
    with steer(engine.model, config):
        matrices = full_matrices(engine, inputs)
    columns = [i for i, token in enumerate(ids) if token == engine.model.config.image_token_id]
    for layer, matrix in enumerate(matrices):
        wanted = matrix[:, -1, columns].sum(dim=-1)
        np.testing.assert_allclose(amplified.image[layer, 0], wanted, atol=1e-5)


def test_a_patched_model_is_looked_at_without_and_with_its_patches(tmp_path) -> None:
    engine = TinyEngine("llava")
    wanted_plain, wanted_steered = attend(engine, query(), ScalingVis(alpha=3))
    norms = NormRescale(target=30.0)
    with steer(engine.model, ScalingVis(alpha=3)):
        found = attend(engine, query())
        both = attend(engine, query(), norms)
    with steer(engine.model, [ScalingVis(alpha=3), norms]):
        together = attend(engine, query())
        rescaled = {}

        def keep(attention) -> None:
            last = torch.tensor([attention.query.shape[2] - 1])
            rescaled[attention.layer] = attention.weights(last)[0, :, 0]

        # All rows first, then the steered tail of the second pass: the tail is what is used.
        observe_prompt(engine, engine.encode([query()]), keep, steered=True)
        observed = dict(rescaled)
        observe_prompt(engine, engine.encode([query()]), keep)
    for name in MEASURES:
        assert np.array_equal(look(found[0], name), look(wanted_plain, name)), name
        np.testing.assert_allclose(look(found[1], name), look(wanted_steered, name), atol=1e-6)
        assert np.array_equal(look(both[0], name), look(wanted_plain, name)), name
        assert np.array_equal(look(both[1], name), look(together[1], name)), name
    image = engine.encode([query()])["input_ids"][0] == engine.model.config.image_token_id
    for layer, weights in observed.items():
        share = weights[:, image].sum(dim=-1)
        np.testing.assert_allclose(together[1].image[layer, 0], share, atol=1e-6)
        # Without being asked for, the second pass is not shown.
        assert not torch.allclose(rescaled[layer], weights, atol=1e-3)
    assert not np.allclose(wanted_plain.image, wanted_steered.image, atol=1e-3)


def state_of(engine):
    """What looking may not leave behind, and the logits of a prompt."""
    names = [config._attn_implementation for config in attention_configs(engine_decoder(engine))]
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in m.__dict__)
        for m in engine.model.modules()
    ]
    with torch.no_grad():
        logits = engine.model(**engine.encode([query(seed=3)])).logits
    return names, hooks, "generate" in engine.model.__dict__, logits


def engine_decoder(engine):
    return engine.family.decoder_of(engine.model)


def assert_as_before(engine, before) -> None:
    after = state_of(engine)
    assert after[:3] == before[:3]
    assert torch.equal(after[3], before[3])


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "gemma3"])
def test_the_model_is_as_before(family) -> None:
    engine = TinyEngine(family)
    before = state_of(engine)
    attend(engine, query(), ScalingVis(alpha=2), words=WORDS)
    probe_prompt(engine, query())
    assert_as_before(engine, before)


def test_the_model_is_as_before_after_an_error() -> None:
    engine = TinyEngine("llava")
    before = state_of(engine)

    def break_off(attention) -> None:
        if attention.layer == 1:
            raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        observe_prompt(engine, engine.encode([query()]), break_off)
    assert_as_before(engine, before)
    # An observer of the steered pass fails in its second layer.
    with (
        pytest.raises(RuntimeError, match="broken off"),
        steer(engine.model, ScalingVis(alpha=2)),
        observed_attention(break_off),
    ):
        engine.model(**engine.encode([query()]))
    assert_as_before(engine, before)


def test_a_prompt_without_an_image_is_refused() -> None:
    with pytest.raises(PromptError, match="without an image"):
        attend(TinyEngine("llava"), Query("where is the cat"))


def test_a_decoder_with_its_own_attention_is_refused(monkeypatch) -> None:
    engine = TinyEngine("llava")
    monkeypatch.setattr(type(engine.model), "forward", lambda self, **inputs: None)
    with pytest.raises(UnsupportedError, match="attention interface"):
        attend(engine, query())


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


def test_no_matrix_of_all_rows_is_made(monkeypatch) -> None:
    """Neither by looking, in blocks here of 16 rows, nor by the pass that is looked at."""
    engine = TinyEngine("llava")
    long = query("where is the cat " * 400)
    inputs = engine.encode([long])
    length = inputs["input_ids"].shape[1]
    heads = engine.model.config.text_config.num_attention_heads
    monkeypatch.setattr("adaptvis.diagnostics.attention.rows._BLOCK_BYTES", 16 * 4 * heads * length)
    with LargestTensor() as largest:
        attend(engine, long, words=("cat",))
    rows = 16
    assert largest.elements <= max(heads * rows, 2 * HIDDEN) * length
    assert largest.elements < length * length / 4
