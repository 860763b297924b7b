"""The order of samples: a seeded permutation whose batches are of one modality."""

from typing import Any

import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from adaptvis.errors import ConfigError
from adaptvis.training.llava.data import ModalityLengthSampler, WholeSteps

LENGTHS = st.lists(st.integers(-600, 600).filter(bool), max_size=120)
SIZES = {"batch_size": st.integers(1, 6), "world_size": st.integers(1, 4)}


@given(lengths=LENGTHS, epoch=st.integers(0, 5), **SIZES)
def test_every_sample_comes_once(
    lengths: list[int], batch_size: int, world_size: int, epoch: int
) -> None:
    sampler = ModalityLengthSampler(lengths, batch_size, world_size, seed=3)
    sampler.set_epoch(epoch)
    order = list(sampler)
    assert sorted(order) == list(range(len(lengths))) == list(range(len(sampler)))
    again = ModalityLengthSampler(lengths, batch_size, world_size, seed=3)
    again.set_epoch(epoch)
    assert list(again) == order == list(sampler)


@given(lengths=LENGTHS, **SIZES)
def test_megabatches_are_of_one_modality_and_batches_sorted(
    lengths: list[int], batch_size: int, world_size: int
) -> None:
    order = list(ModalityLengthSampler(lengths, batch_size, world_size, seed=0))
    size = batch_size * world_size
    with_images = sum(length > 0 for length in lengths)
    whole = with_images // size + (len(lengths) - with_images) // size
    for start in range(0, whole * size, size):
        megabatch = [lengths[i] for i in order[start : start + size]]
        assert len({length > 0 for length in megabatch}) == 1
        for first in range(0, size, batch_size):
            batch = [abs(length) for length in megabatch[first : first + batch_size]]
            assert batch == sorted(batch, reverse=True)
    rest = [lengths[i] > 0 for i in order[whole * size :]]
    assert rest == sorted(rest, reverse=True)
    assert rest.count(True) == with_images % size


def test_processes_get_about_as_many_tokens() -> None:
    lengths = [8, 7, 6, 5, 4, 3, 2, 1]
    order = list(ModalityLengthSampler(lengths, batch_size=4, world_size=2, seed=0))
    # Dealt by hand: 8 | 7, then 6 to the second (7 < 8), 5 to the first, 4 | 3, 2 | 1 likewise.
    assert [[lengths[i] for i in order[:4]], [lengths[i] for i in order[4:]]] == [
        [8, 5, 4, 1],
        [7, 6, 3, 2],
    ]


def test_epochs_and_seeds_give_other_orders() -> None:
    lengths = [1 + i % 7 for i in range(64)]
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        sampler = ModalityLengthSampler(lengths, 4, seed=seed)
        sampler.set_epoch(epoch)
        orders.append(tuple(sampler))
    assert len(set(orders)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 0], 1), "Sample 1 has length 0"),
        (([1], 0), "batch_size must be at least 1"),
        (([1], 1, 0), "world_size must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModalityLengthSampler(*arguments)


@pytest.mark.parametrize("epoch", [0, 1])
def test_every_epoch_is_whole_steps_the_same_for_any_number_of_processes(epoch: int) -> None:
    """10 samples in steps of 8, 4 at once: 16 are taken, the first 6 of the order twice."""
    lengths = [1 + i % 7 for i in range(10)]
    order = ModalityLengthSampler(lengths, 4, 2, seed=5)
    sampler = WholeSteps(order, 8)
    sampler.set_epoch(epoch)
    taken = list(sampler)
    plain = list(order)
    assert taken == plain + plain[:6]
    assert len(sampler) == 16
    batches = BatchSampler(sampler, 4, drop_last=False)
    shards = [list(BatchSamplerShard(batches, 2, process)) for process in range(2)]
    assert [len(shard) for shard in shards] == [2, 2]
    for step in range(2):
        of_step = sorted(i for shard in shards for i in shard[step])
        assert of_step == sorted(taken[8 * step : 8 * step + 8])


@given(samples=st.integers(1, 40), size=st.integers(1, 16))
def test_whole_steps_take_every_sample(samples: int, size: int) -> None:
    taken = list(WholeSteps(range(samples), size))
    assert len(taken) % size == 0
    assert len(taken) - samples < size
    assert set(taken) == set(range(samples))
