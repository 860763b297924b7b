"""What other libraries do to the methods of a patched model: replace, restore, compile."""

import copy
import functools
import threading

import pytest
import torch
from hf.helpers import TOLERANCE, Case, generate, image

from adaptvis import AdaptVisWarning, NormRescale, ScalingVis, patch, steer
from adaptvis.errors import UnknownFamilyError
from adaptvis.hf.compiled import run_eagerly
from adaptvis.hf.families import _FAMILIES, Family, register_family

CONFIG = ScalingVis(alpha=1.8)


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)


def _without_accelerate_hooks(model):
    from accelerate.hooks import remove_hook_from_submodules

    remove_hook_from_submodules(model)
    return model


def _with_another_forward(model):
    model.forward = type(model).forward.__get__(model)
    return model


def _with_another_decoder_forward(model):
    decoder = model.model.language_model
    decoder.forward = type(decoder).forward.__get__(decoder)
    return model


@pytest.mark.parametrize(
    "replace", [_without_accelerate_hooks, _with_another_forward, _with_another_decoder_forward]
)
@pytest.mark.parametrize("call", ["generate", "forward"])
def test_a_patch_that_something_has_taken_off_is_noticed(replace, call):
    from accelerate import cpu_offload

    case = Case("llava")
    model = copy.deepcopy(case.model)
    if replace is _without_accelerate_hooks:
        # Its hooks keep the forward that they found, and put it back on removal.
        model = cpu_offload(model, execution_device=torch.device("cpu"))
    handle = patch(model, CONFIG)
    replace(model)
    run = model if call == "forward" else functools.partial(generate, model, case.inputs)
    with torch.no_grad(), pytest.warns(AdaptVisWarning, match="ran past"):
        run(**(case.inputs if call == "forward" else {}))
    assert not any(decision.applied for decision in handle.last)


def test_norms_of_a_family_without_image_features_are_refused_when_patching(monkeypatch):
    monkeypatch.setattr("adaptvis.hf.families._FAMILIES", dict(_FAMILIES))
    register_family(Family("llava", features="model.language_model", adjacent_images=True))
    model = Case("llava").model
    with pytest.raises(UnknownFamilyError, match="get_image_features"):
        patch(model, NormRescale())
    assert "forward" not in model.__dict__
    # Attention needs none.
    with steer(model, CONFIG):
        pass


@pytest.mark.filterwarnings("ignore")
def test_layers_compiled_one_by_one_are_steered_without_being_compiled_again():
    case = Case("llava", ["where is the cat"], [[image(0)]])
    expected = case.reference(1.8, steps=2)[1]
    model = copy.deepcopy(case.model)
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    try:
        model.model.language_model.layers[1].compile(backend=counting)
        generate(model, case.inputs, steps=2)
        unsteered = len(graphs)
        with steer(model, CONFIG):
            close(generate(model, case.inputs, steps=2)[1], expected)
    finally:
        torch._dynamo.reset()
    # The second pass must not use up the recompilations that the compiler allows.
    assert len(graphs) == unsteered > 0


@pytest.mark.filterwarnings("ignore")
def test_a_forward_compiled_as_one_graph_says_why_that_cannot_be_steered():
    case = Case("llava", ["where is the cat"], [[image(0)]])
    model = copy.deepcopy(case.model)
    torch._dynamo.reset()
    try:
        with torch._dynamo.config.patch(capture_scalar_outputs=True):
            model.forward = torch.compile(model.forward, backend="eager", fullgraph=True)
            with steer(model, CONFIG), pytest.raises(Exception, match="without fullgraph=True"):
                generate(model, case.inputs, steps=1)
    finally:
        torch._dynamo.reset()


def test_two_models_steered_in_threads_leave_the_compiler_as_it_was():
    # The stance of the compiler belongs to the process, not to a thread.
    inside, leave = threading.Barrier(2), threading.Barrier(2)
    first_left = threading.Event()

    def first():
        run_eagerly(lambda: (inside.wait(5), leave.wait(5)))
        first_left.set()

    def second():
        run_eagerly(lambda: (inside.wait(5), leave.wait(5), first_left.wait(5)))

    before = torch._dynamo.eval_frame._stance
    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch._dynamo.eval_frame._stance == before
