"""Which calls a ``steer`` block reaches: threads, asyncio tasks, generators and their servers."""

import asyncio
import contextvars
import gc
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
import torch
from hf.helpers import CACHE, TOLERANCE, Case, generate, image

from adaptvis import AdaptVis, AdaptVisWarning, ScalingVis, patch, steer
from adaptvis.errors import ConfigError, UnsupportedError
from adaptvis.hf.active import active_steering
from adaptvis.hf.blocks import _inside, _open
from adaptvis.hf.library import cache_of

STRONG, WEAK = ScalingVis(alpha=1.8), ScalingVis(alpha=0.5)


@pytest.fixture(scope="module")
def case():
    return Case("llava", ["where is the cat"], [[image(0)]])


@pytest.fixture(scope="module")
def logits(case):
    """The first token's logits under eager attention, by alpha."""
    return {alpha: case.reference(alpha, steps=1)[1] for alpha in (1.8, 0.5, None)}


def ask(case):
    return generate(case.model, case.inputs, steps=1)[1]


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)


def in_force(case):
    """Alpha of the steering in force, without running the model."""
    return next((config.alpha for config in active_steering(case.model)), None)


def in_thread(work):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


def test_tasks_of_one_thread_get_their_own_steering_at_every_await(case, logits):
    async def task(config, alpha):
        with steer(case.model, config) as handle:
            for _ in range(2):
                await asyncio.sleep(0)
                close(ask(case), logits[alpha])
                await asyncio.sleep(0)
                assert [d.alpha for d in handle.last] == pytest.approx([alpha] if alpha else [])

    async def main():
        await asyncio.gather(task(STRONG, 1.8), task(WEAK, 0.5), task(None, None))

    asyncio.run(main())
    assert "forward" not in case.model.__dict__


def test_a_task_without_a_block_is_told_that_another_task_is_steered(case, logits):
    opened, asked = asyncio.Event(), asyncio.Event()

    async def steered():
        with steer(case.model, STRONG):
            opened.set()
            await asked.wait()
            close(ask(case), logits[1.8])

    async def plain():
        await opened.wait()
        with pytest.warns(AdaptVisWarning, match="another thread, task or generator only"):
            close(ask(case), logits[None])
        asked.set()

    async def main():
        await asyncio.gather(steered(), plain())

    asyncio.run(main())


def test_what_a_task_hands_to_a_thread_or_to_tasks_of_its_own_is_steered(case, logits):
    async def task(config, alpha):
        with steer(case.model, config) as handle:
            close(await asyncio.to_thread(ask, case), logits[alpha])
            assert handle.last[0].alpha == pytest.approx(alpha)
            child = asyncio.create_task(asyncio.to_thread(in_force, case))
            assert await child == alpha

    async def main():
        await asyncio.gather(task(STRONG, 1.8), task(WEAK, 0.5))

    asyncio.run(main())


def test_forward_calls_of_tasks_that_alternate_between_prefill_and_decode(case):
    following = torch.tensor([[7]])

    async def task(alpha):
        config = ScalingVis(alpha=alpha, rows="generated")
        with steer(case.model, config):
            # torch's own switch belongs to the thread, so it must not stay open over an await.
            with torch.no_grad():
                first = case.model(**case.inputs, use_cache=True)
            cache = cache_of(first)
            await asyncio.sleep(0)
            with torch.no_grad():
                return case.model(input_ids=following, **{CACHE: cache}).logits

    async def main():
        return await asyncio.gather(task(1.8), task(0.5))

    together = asyncio.run(main())
    for alpha, answer in zip((1.8, 0.5), together, strict=True):
        assert torch.equal(answer, asyncio.run(task(alpha)))
    assert not torch.allclose(*together)


def test_a_new_thread_with_a_finished_threads_identifier_is_not_steered(case):
    started = []

    def enter():
        block = steer(case.model, STRONG)
        block.__enter__()
        started.append((threading.get_ident(), block))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    found = []

    def look():
        found.append((threading.get_ident(), in_force(case)))

    try:
        for _ in range(50):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert {alpha for _, alpha in found} == {None}
    finally:
        started[0][1].__exit__(None, None, None)
    if started[0][0] not in {ident for ident, _ in found}:
        pytest.skip("this system does not use identifiers again")


@pytest.mark.parametrize("start", ["thread", "executor"])
def test_threads_and_executors_that_a_block_starts_are_outside_unless_given_its_context(
    case, logits, start
):
    def run(*work):
        if start == "executor":
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(*work).result()
        found = []
        thread = threading.Thread(target=lambda: found.append(work[0](*work[1:])))
        thread.start()
        thread.join()
        return found[0]

    with steer(case.model, STRONG):
        with pytest.warns(AdaptVisWarning, match=r"copy_context\(\).run"):
            close(run(ask, case), logits[None])
        with warnings.catch_warnings():
            warnings.simplefilter("error", AdaptVisWarning)
            close(run(contextvars.copy_context().run, ask, case), logits[1.8])


def answers(case, config, count=3):
    """What a streaming endpoint does."""
    with steer(case.model, config) as handle:
        for _ in range(count):
            yield ask(case), round(handle.last[0].alpha, 3)


def served(generator):
    """Each step in a thread and a fresh copy of the context, as starlette and gradio do."""
    end = object()
    while (item := in_thread(lambda: contextvars.Context().run(next, generator, end))) is not end:
        yield item


def test_streams_whose_steps_run_in_other_threads_and_contexts_keep_their_own_steering(
    case, logits
):
    with warnings.catch_warnings():
        warnings.simplefilter("error", AdaptVisWarning)
        streams = [served(answers(case, STRONG)), served(answers(case, WEAK))]
        for strong, weak in zip(*streams, strict=True):
            close(strong[0], logits[1.8])
            close(weak[0], logits[0.5])
            assert (strong[1], weak[1]) == (1.8, 0.5)
    assert "forward" not in case.model.__dict__


def test_generators_that_one_caller_alternates_do_not_mix_and_do_not_steer_the_caller(case, logits):
    streams = answers(case, STRONG), answers(case, WEAK)
    for _ in range(2):
        close(next(streams[0])[0], logits[1.8])
        close(next(streams[1])[0], logits[0.5])
        with pytest.warns(AdaptVisWarning, match="generator only"):
            close(ask(case), logits[None])
    for stream in streams:
        stream.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error", AdaptVisWarning)
        close(ask(case), logits[None])


def test_a_generators_own_block_is_nearer_than_a_later_one_around_its_caller(case):
    def steps():
        with steer(case.model, STRONG):
            while True:
                yield in_force(case)

    stream = steps()
    assert next(stream) == 1.8
    with steer(case.model, WEAK):
        assert (next(stream), in_force(case)) == (1.8, 0.5)
        with steer(case.model, None):
            assert (next(stream), in_force(case)) == (1.8, None)
    stream.close()


def test_a_generator_closed_in_another_context_or_forgotten_leaves_the_model_clean(case):
    for end in ("close in a thread", "close in a copy", "forget"):
        stream = answers(case, STRONG)
        next(stream)
        if end == "close in a thread":
            in_thread(stream.close)
        elif end == "close in a copy":
            contextvars.copy_context().run(stream.close)
        else:
            del stream
            gc.collect()
        assert "forward" not in case.model.__dict__
        assert not _open
    with steer(case.model, WEAK):
        assert in_force(case) == 0.5
        assert len(_inside.get()) == 1, "numbers of closed blocks pile up"


def test_jobs_of_one_executor_do_not_inherit_a_stream_that_waits_there(case):
    with ThreadPoolExecutor(1) as pool:
        stream = answers(case, STRONG)
        pool.submit(next, stream).result()
        assert pool.submit(in_force, case).result() is None
        assert pool.submit(next, stream).result()[1] == 1.8
        stream.close()


def test_an_async_generator_keeps_its_steering_over_threads_and_tasks_and_not_its_consumer(case):
    async def stream(config):
        with steer(case.model, config):
            while True:
                here = in_force(case), await asyncio.to_thread(in_force, case)
                yield here, await asyncio.create_task(asyncio.to_thread(in_force, case))

    async def main():
        strong = stream(STRONG)
        for _ in range(2):
            assert await anext(strong) == ((1.8, 1.8), 1.8)
            assert in_force(case) is None
        weak = stream(WEAK)
        with pytest.raises(UnsupportedError, match="a task of its own"):
            await anext(weak)
        await asyncio.create_task(strong.aclose())
        await weak.aclose()

    asyncio.run(main())
    assert "forward" not in case.model.__dict__


def test_a_stream_that_generates_in_a_thread_with_its_context_is_steered_between_its_steps(case):
    go = threading.Event()

    def work():
        go.wait(10)
        return in_force(case)

    def stream():
        with ThreadPoolExecutor(1) as pool, steer(case.model, STRONG):
            job = pool.submit(contextvars.copy_context().run, work)
            yield "working"
            yield job.result()

    steps = stream()
    assert next(steps) == "working"
    go.set()
    assert next(steps) == 1.8
    steps.close()


def test_blocks_opened_by_context_managers_and_stacks_steer_their_users(case):
    @contextmanager
    def around(config):
        with steer(case.model, config):
            yield

    class Manager:
        def __enter__(self):
            self.stack = ExitStack()
            self.stack.enter_context(steer(case.model, WEAK))

        def __exit__(self, *_):
            self.stack.close()

    with around(STRONG):
        assert in_force(case) == 1.8
        with Manager():
            assert in_force(case) == 0.5
        assert in_force(case) == 1.8

    def steps():
        with ExitStack() as stack:
            stack.enter_context(around(STRONG))
            while True:
                yield in_force(case)

    stream = served(steps())
    assert [next(stream) for _ in range(3)] == [1.8] * 3


@pytest.fixture
def steered_by_a_fixture(case):
    with steer(case.model, STRONG):
        yield


@pytest.mark.usefixtures("steered_by_a_fixture")
def test_a_fixture_steers_its_test(case):
    assert in_force(case) == 1.8


def test_as_a_decorator_it_steers_functions_and_refuses_those_that_run_later(case):
    decorate = steer(case.model, STRONG)
    assert [decorate(in_force)(case) for _ in range(2)] == [1.8] * 2

    async def later():
        pass

    def steps():
        yield

    for function in (later, steps):
        with pytest.raises(ConfigError, match="inside it"):
            decorate(function)


def test_pausing_is_for_the_task_or_generator_that_pauses(case):
    handle = patch(case.model, STRONG)

    async def paused():
        with handle.paused():
            for _ in range(3):
                await asyncio.sleep(0)
                assert in_force(case) is None
                assert await asyncio.to_thread(in_force, case) is None

    async def steered():
        for _ in range(3):
            await asyncio.sleep(0)
            assert in_force(case) == 1.8

    async def main():
        await asyncio.gather(paused(), steered())

    def steps():
        with handle.paused():
            while True:
                yield handle.is_paused

    try:
        asyncio.run(main())
        stream = steps()
        assert next(stream)
        assert not handle.is_paused
        assert in_thread(lambda: next(stream))
        in_thread(stream.close)
        assert not handle.is_paused
    finally:
        handle.remove()


def test_last_is_the_asking_threads_or_tasks_own(case):
    confidence = case.reference(None, steps=1)[1][0].softmax(-1).amax().item()
    two = Case("llava", ["where", "what"])
    handle = patch(case.model, AdaptVis())

    async def task(which, first):
        assert len(handle.last) == first
        generate(case.model, which.inputs, steps=1)
        for _ in range(3):
            await asyncio.sleep(0)
            assert len(handle.last) == len(which.prompts)
        await asyncio.to_thread(generate, case.model, which.inputs, 1)
        assert len(handle.last) == len(which.prompts)

    async def main():
        await asyncio.gather(task(case, 0), task(two, 1))
        generate(case.model, case.inputs, steps=1)
        await asyncio.create_task(task(two, 1))
        assert len(handle.last) == 1

    try:
        asyncio.run(main())
        assert len(handle.last) == 2, "anybody's"
        ask(case)
        assert handle.last[0].confidence == pytest.approx(confidence, abs=1e-5)
        in_thread(lambda: generate(case.model, two.inputs, steps=1))
        assert len(handle.last) == 1
        contextvars.copy_context().run(generate, case.model, two.inputs, 1)
        assert len(handle.last) == 2
    finally:
        handle.remove()


def test_contexts_that_live_on_keep_no_handle_alive(case):
    handle = patch(case.model, STRONG)
    context = contextvars.copy_context()

    def work():
        with steer(case.model, WEAK) as inner:
            ask(case)
            return weakref.ref(inner), contextvars.copy_context()

    inner, inside = context.run(work)
    kept = weakref.ref(handle)
    handle.remove()
    del handle
    gc.collect()
    assert inner() is None
    assert kept() is None
    assert inside.run(in_force, case) is None
