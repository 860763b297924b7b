"""Interventions against the same edits made by hand, with tokens counted on paper.

The embedded model sees 7 x 7 image tokens. Three objects of one token lie on tokens 1, 3 and 5 of
the middle row (22, 24, 26) or column (10, 24, 38).
"""

import json

import pyarrow.parquet as pq
import pytest
import torch
from diagnostics.tiny import tiny_engine

from adaptvis.data.three_objects import Item, Pair, draw_pairs
from adaptvis.diagnostics.hooks import decoder_layers
from adaptvis.diagnostics.interchange import InterchangeResult, measure_interchange
from adaptvis.diagnostics.interventions import ablated, interchanged, swapped
from adaptvis.diagnostics.residual_stream import image_embeddings, last_logits, layer_inputs
from adaptvis.diagnostics.results import write_result
from adaptvis.diagnostics.share import Share
from adaptvis.diagnostics.three_object_questions import Questions, answer_tokens, layout_of
from adaptvis.errors import DataError, UnsupportedError
from adaptvis.hf.engine import HFEngine

ROW = Item("squares", ("red", "green", "blue"), "left")
COLUMN = Item("squares", ("cyan", "yellow", "red"), "below")
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def questions():
    return Questions.for_model(tiny_engine())


def projected(engine, image):
    """Image tokens [49, D] by the model's own method, without our hooks."""
    inputs = engine.encode([engine_query(image)])
    with torch.inference_mode():
        return engine.model.model.get_image_features(
            pixel_values=inputs["pixel_values"]
        ).pooler_output[0]


def engine_query(image):
    from adaptvis.engine import Query

    return Query("?", (image,))


def with_projection(questions, item, features):
    """Probabilities of the names where the projector returns these features [49, D]."""
    projector = questions.engine.model.model.multi_modal_projector
    hook = projector.register_forward_hook(lambda module, args, out: features[None])
    try:
        return questions.probabilities(last_logits(questions.engine, questions.encode([item])))[0]
    finally:
        hook.remove()


def strips(item):
    """Tokens of the two strips: three whole columns, or three whole rows, at either end."""
    cells = [(row, column) for row in range(7) for column in range(7)]
    place = 1 if item.axis == "horizontal" else 0
    low = [7 * r + c for r, c in cells if (r, c)[place] in (0, 1, 2)]
    high = [7 * r + c for r, c in cells if (r, c)[place] in (4, 5, 6)]
    return low, high


def test_the_tiny_grid_wording_and_names(questions):
    layout = questions.layout
    assert (layout.grid, layout.cell, layout.size, layout.spacing) == (7, 8, 1, 1)
    assert questions.wording == "short"
    assert questions.names == ("red", "green", "blue", "yellow", "purple", "cyan")
    ids = questions.engine.processor.tokenizer.convert_tokens_to_ids(["red"])
    assert answer_tokens(questions.engine, "red") == tuple(ids)
    with pytest.raises(DataError, match="'armadillo' is no single token"):
        answer_tokens(questions.engine, "armadillo")
    # Two of the six shapes are not among its words, and none of the drawn objects.
    shapes = Questions.for_model(questions.engine, "shapes")
    assert shapes.names == ("circle", "square", "triangle", "cross")
    with pytest.raises(DataError, match="spells 0 as single tokens"):
        Questions.for_model(questions.engine, "objects")


def test_the_probability_of_a_name_is_that_of_its_spellings():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]]))
    made = Questions(None, "squares", None, "short", ("a", "b"), ((0, 2), (1,)))
    torch.testing.assert_close(made.probabilities(logits), torch.tensor([[0.4, 0.2]]))


def test_image_embeddings_are_the_projected_tokens(questions):
    engine = questions.engine
    images = [ROW.image(questions.layout), COLUMN.image(questions.layout)]
    found = image_embeddings(engine, images, batch_size=1)
    assert found.shape == (2, 49, engine.model.get_input_embeddings().weight.shape[1])
    for image, tokens in zip(images, found, strict=True):
        torch.testing.assert_close(tokens, projected(engine, image), **CLOSE)


def test_the_last_slot_gives_the_counterfactuals_answer_and_the_first_changes_nothing(questions):
    pair = Pair(ROW, Item("squares", ("cyan", "green", "purple"), "right"))
    patched, clean = interchanged(questions, [pair])
    theirs = questions.probabilities(
        last_logits(questions.engine, questions.encode([pair.counterfactual]))
    )
    # Both prompts end in the same token, so slot 0 holds the same vector; behind the last layer
    # the final state decides alone.
    torch.testing.assert_close(patched[0], clean, **CLOSE)
    torch.testing.assert_close(patched[-1], theirs, **CLOSE)
    assert questions.names[int(clean.argmax())] == "red"
    assert questions.names[int(patched[-1].argmax())] == "purple"


def test_an_interchange_in_between_is_a_replaced_state_of_the_last_row(questions):
    engine = questions.engine
    pairs = draw_pairs("squares", 3, names=questions.names)
    inputs = questions.encode([p.clean for p in pairs])
    other = questions.encode([p.counterfactual for p in pairs])
    with torch.inference_mode():
        states = engine.model(**other, output_hidden_states=True).hidden_states
    layer = decoder_layers(engine)[2]

    def put(module, args, output):
        changed = output.clone()
        for row in range(3):
            changed[row, -1] = states[3][row, -1]
        return changed

    hook = layer.register_forward_hook(put)
    expected = questions.probabilities(last_logits(engine, inputs))
    hook.remove()
    torch.testing.assert_close(interchanged(questions, pairs)[0][3], expected, **CLOSE)


@pytest.mark.parametrize("item", [ROW, COLUMN])
def test_swaps_at_the_input_are_rearranged_projections(questions, item):
    engine, layout = questions.engine, questions.layout
    own = projected(engine, item.image(layout))
    other = projected(engine, item.mirrored().image(layout))
    things = ([22], [26]) if item is ROW else ([10], [38])
    low, high = strips(item)
    around = [[t for t in s if t not in things[0] + things[1]] for s in (low, high)]
    found = swapped(questions, [item])
    regions = {"object": things, "strip": (low, high), "background": around}
    for region, (first, last) in regions.items():
        features = own.clone()
        features[first] = other[last]
        features[last] = other[first]
        expected = with_projection(questions, item, features)
        torch.testing.assert_close(found[region][0][0], expected, rtol=1e-4, atol=1e-6)


def test_swaps_in_a_later_layer_in_a_batch_with_both_axes(questions):
    engine = questions.engine
    found = swapped(questions, [ROW, COLUMN])["object"][2]
    for index, (item, first, last) in enumerate([(ROW, 22, 26), (COLUMN, 10, 38)]):
        inputs = questions.encode([item])
        start = int(torch.where(inputs["input_ids"][0] == engine.model.config.image_token_id)[0][0])
        with torch.inference_mode():
            mirrored = engine.model(
                **questions.encode([item.mirrored()]), output_hidden_states=True
            ).hidden_states[2]

        def put(module, args, kwargs, start=start, first=first, last=last, mirrored=mirrored):
            hidden = args[0].clone()
            hidden[0, start + first] = mirrored[0, start + last]
            hidden[0, start + last] = mirrored[0, start + first]
            return (hidden, *args[1:]), kwargs

        hook = decoder_layers(engine)[2].register_forward_pre_hook(put, with_kwargs=True)
        expected = questions.probabilities(last_logits(engine, inputs))[0]
        hook.remove()
        torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-6)


def test_ablation_puts_isolated_things_onto_an_empty_ground(questions):
    from adaptvis.data.scenes import COLORS, Scene, render

    engine = questions.engine
    empty = render(Scene(()))
    for item, slots in ((ROW, (22, 24, 26)), (COLUMN, (10, 24, 38))):
        features = projected(engine, empty).clone()
        for name, slot in zip(item.names, slots, strict=True):
            alone = empty.copy()
            alone.paste(COLORS[name], (24, 24, 32, 32))
            features[slot] = projected(engine, alone)[24]
        expected = with_projection(questions, item, features)
        torch.testing.assert_close(ablated(questions, [item])[0], expected, rtol=1e-4, atol=1e-6)


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_no_hook_outlives_an_error(questions):
    engine = questions.engine
    before = hooks_of(engine.model)
    for act in (
        lambda: interchanged(questions, [Pair(ROW, COLUMN), Pair(COLUMN, ROW)]),
        lambda: swapped(questions, [ROW, COLUMN]),
        lambda: layer_inputs(engine, questions.encode([ROW]), 49),
        lambda: ablated(questions, [ROW]),
    ):
        act()
        assert hooks_of(engine.model) == before
        handle = decoder_layers(engine)[1].register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            # The pass that only looks at embeddings never reaches a layer.
            act()
        handle.remove()
        assert hooks_of(engine.model) == before


def test_the_result_counts_by_hand_and_is_written(questions, tmp_path):
    seen = []
    result = measure_interchange(
        questions.engine, pairs=6, batch_size=4, progress=lambda *at: seen.append(at)
    )
    pairs = draw_pairs("squares", 6, names=questions.names)
    patched, clean = interchanged(questions, pairs)
    names = questions.names
    right = [
        names[int(p.argmax())] == pair.clean.answer for p, pair in zip(clean, pairs, strict=True)
    ]
    assert result.accuracy == Share(sum(right), 6)
    for slot, row in enumerate(patched):
        for role in range(4):
            best = [names[int(p.argmax())] for p in row]
            hits = sum(b == pair.candidates[role] for b, pair in zip(best, pairs, strict=True))
            assert result.winners[slot][role] == hits
    swaps = swapped(questions, [p.clean for p in pairs])["object"]
    for layer, row in enumerate(swaps):
        best = [names[int(p.argmax())] for p in row]
        flips = [
            b == pair.clean.other_end and r for b, pair, r in zip(best, pairs, right, strict=True)
        ]
        assert result.flips["object"][layer] == Share(sum(flips), sum(right))
        axes = [result.by_axis[a]["object"][layer] for a in ("horizontal", "vertical")]
        assert sum(s.count for s in axes) == sum(flips)
        assert sum(s.total for s in axes) == sum(right)
        kept = [f for f, r in zip(flips, right, strict=True) if r]
        assert result.flipped["object"][layer] == kept
    without = [names[int(p.argmax())] for p in ablated(questions, [p.clean for p in pairs])]
    lost = [r and b != p.clean.answer for r, b, p in zip(right, without, pairs, strict=True)]
    assert result.lost == Share(sum(lost), sum(right))
    assert seen[-1] == ("interchange", 6, 6)
    paths = write_result(result, tmp_path)
    record = json.loads(paths["json"].read_text())
    assert record["summary"]["clean_accuracy"]["count"] == sum(right)
    assert record["settings"]["prompt"] == "What color is on the left of the image?"
    assert len(pq.read_table(paths["parquet"])) == len(result.rows())
    assert paths["png"].stat().st_size > 10_000
    assert all(finding.measured for finding in result.findings())


def test_findings_follow_the_intervals():
    assert Share(50, 50).above(0.5) is True
    assert Share(0, 50).above(0.5) is False
    assert Share(26, 50).above(0.5) is None
    assert Share(0, 0).above(0.5) is None
    # Fewer than 20 decide nothing; the best of many has to be further away.
    assert Share(19, 19).above(0.5) is None
    assert Share(33, 50).above(0.5) is True
    assert Share(33, 50).above(0.5, looks=32) is None


def verdicts(strip=0, thing=(0, 0, 0), accuracy=50, lost=0, wins=0, total=50):
    """Of 50 pairs: flips by strips at the input, by objects per layer, ... -> what holds."""

    def first(count):
        return [index < count for index in range(accuracy)]

    flipped = {
        "object": [first(count) for count in thing],
        "background": [first(0)] * 3,
        "strip": [first(strip)] * 3,
    }
    result = InterchangeResult(
        engine={},
        last_token=[[0.0] * 4] * 3,
        clean=[0.0] * 4,
        kept={},
        by_axis={},
        winners=[[0, 0, 0, 0], [0, wins, 0, 0], [0, 0, 0, 0]],
        flips={r: [Share(sum(row), accuracy) for row in rows] for r, rows in flipped.items()},
        flipped=flipped,
        lost=Share(lost, accuracy),
        chance=1 / 3,
        accuracy=Share(accuracy, total),
        ablation=Share(accuracy - lost, total),
    )
    return [finding.holds for finding in result.findings()]


def test_strips_against_objects_is_one_paired_claim():
    assert verdicts(strip=50)[0] is True
    # Where strips flip nothing, that objects flip nothing says nothing.
    assert verdicts(strip=0)[0] is None
    assert verdicts(strip=50, thing=(50, 50, 50))[0] is False
    assert verdicts(strip=5)[0] is not True


def test_intermediate_layers_are_behind_the_input_and_beyond_it():
    assert verdicts(thing=(0, 0, 50))[2] is True
    assert verdicts(thing=(50, 0, 0))[2] is False
    assert verdicts(thing=(50, 50, 50))[2] is False
    # 32 of 50 lies above a half for one layer, and not for the best of two.
    assert Share(32, 50).above(0.5) is True
    assert verdicts(thing=(0, 32, 0))[2] is None


def test_most_of_the_order_is_more_than_half_of_the_right_answers():
    assert verdicts(lost=15)[3] is False
    assert verdicts(lost=45)[3] is True
    assert verdicts(lost=25)[3] is None
    assert verdicts(wins=50)[1] is True
    # A model that guesses has no order to lose.
    assert verdicts(strip=18, accuracy=18, lost=18, wins=50) == [None] * 4
    assert verdicts(strip=8, accuracy=8, lost=8, wins=10, total=10) == [None] * 4


def test_models_without_one_square_grid_are_refused():
    from hf.tiny_families import build

    model, processor = build("llava_next")
    with pytest.raises(UnsupportedError, match="do not form one square grid"):
        layout_of(HFEngine(model, processor))


def test_another_family_with_the_published_grid():
    from hf.tiny_families import build

    model, processor = build("qwen2_vl")
    merged = processor.image_processor.merge_size * processor.image_processor.patch_size
    kept = processor.image_processor.size
    # The tiny family's pictures are smaller than the published ones.
    processor.image_processor.size = {"shortest_edge": 1, "longest_edge": (12 * merged) ** 2}
    try:
        questions = Questions.for_model(HFEngine(model, processor))
        layout = questions.layout
        assert (layout.grid, layout.cell, layout.size, layout.spacing) == (12, merged, 2, 2)
        item = Item("squares", ("red", "green", "blue"), "right")
        inputs, other = questions.encode([item]), questions.encode([item.mirrored()])
        tokens = inputs["input_ids"][0] == model.config.image_token_id
        columns = torch.where(tokens)[0]
        assert len(columns) == 144
        seen = {}
        decoder = questions.engine.family.decoder_of(model)

        def look(module, args, kwargs):
            seen["embeddings"] = kwargs["inputs_embeds"].clone()

        hook = decoder.register_forward_pre_hook(look, with_kwargs=True)
        last_logits(questions.engine, other)
        hook.remove()

        def put(module, args, kwargs):
            changed = kwargs["inputs_embeds"].clone()
            for row in range(12):
                for column in range(4):
                    left, right = columns[12 * row + column], columns[12 * row + column + 8]
                    changed[0, left] = seen["embeddings"][0, right]
                    changed[0, right] = seen["embeddings"][0, left]
            return args, {**kwargs, "inputs_embeds": changed}

        hook = decoder.register_forward_pre_hook(put, with_kwargs=True)
        expected = questions.probabilities(last_logits(questions.engine, inputs))
        hook.remove()
        torch.testing.assert_close(swapped(questions, [item])["strip"][0], expected, **CLOSE)
        assert torch.isfinite(ablated(questions, [item])).all()
    finally:
        processor.image_processor.size = kept
