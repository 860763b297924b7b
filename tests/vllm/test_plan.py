"""Which rows are run again: every history of chunks and preemptions ends in the same rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptvis import AdaptVis, ScalingVis
from adaptvis.vllm.plan import Blocks, Piece, Progress, SteeredRequest, interval, passes, sharers


def steered(length=20, rows="last_prompt_token", first=None, **options):
    return SteeredRequest(
        "id",
        ScalingVis(alpha=2.0, rows=rows, **options),
        length,
        length - 1 if first is None else first,
        np.zeros(length, dtype=bool),
    )


def decided(request):
    request.alpha = torch.tensor(2.0)
    return request


def rows(request, computed, scheduled):
    return interval(Progress(0, computed, scheduled, 0, request))


def test_the_last_row_is_run_again_when_it_is_reached() -> None:
    request = steered()
    assert rows(request, 0, 12) is None
    assert rows(request, 12, 8) == (19, 20)
    decided(request)
    assert rows(request, 20, 1) is None


def test_decode_steps_are_run_again_where_they_are_steered() -> None:
    request = decided(steered(rows="generated"))
    assert rows(request, 20, 1) == (20, 21)


def test_text_rows_of_earlier_chunks_wait_for_the_end_of_the_prompt() -> None:
    request = steered(rows="text_after_image", first=8)
    assert rows(request, 0, 12) is None
    assert rows(request, 12, 8) == (8, 20)


def test_after_a_preemption_the_tail_is_run_again_with_the_known_coefficient() -> None:
    request = decided(steered())
    # 25 tokens are computed anew, in chunks.
    assert rows(request, 0, 16) is None
    assert rows(request, 16, 9) == (19, 25)
    # A cached prefix may end behind the prompt.
    assert rows(request, 20, 5) is None
    assert rows(decided(steered(rows="text_after_image", first=8)), 0, 12) == (8, 12)


@given(
    length=st.integers(2, 40),
    first=st.integers(1, 39),
    kind=st.sampled_from(["last_prompt_token", "generated", "text_after_image"]),
    history=st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=30),
)
def test_rows_that_need_it_are_always_run_again_in_order(length, first, kind, history) -> None:
    """A model of the cache: each row is right, or wrong because something before it changed."""
    first = min(first, length - 1) if kind == "text_after_image" else length - 1
    request = steered(length, kind, first)
    right: list[bool] = []
    for preempted, count in history:
        if preempted:
            right = []
        if request.alpha is None:
            count = min(count, length - len(right))
        computed = len(right)
        progress = Progress(0, computed, count, 0, request)
        # The main pass knows no steering: rows are right if they are unsteered and see right rows.
        for row in range(computed, progress.end):
            is_steered = row >= first and (kind == "generated" or row < length)
            right.append(not is_steered and all(right))
        found = interval(progress)
        if found is not None:
            if request.alpha is None:
                assert progress.end == length
                decided(request)
            begin, end = found
            assert end == progress.end
            for row in range(begin, end):
                right[row] = all(right[:row])
        if request.alpha is not None:
            assert all(right)


def test_pieces_know_their_rows_in_the_step_and_which_are_steered() -> None:
    piece = Piece(Progress(3, 12, 10, 100, steered(rows="text_after_image", first=8)), 8, 22)
    assert piece.step_rows.tolist() == [-1] * 4 + list(range(100, 110))
    assert piece.steered.tolist() == [True] * 12 + [False] * 2
    assert Piece(Progress(0, 5, 2, 7), 5, 7).steered.tolist() == [False, False]


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    heads=st.lists(st.sampled_from([None, (0,), (1, 2)]), min_size=8, max_size=8),
    most=st.integers(1, 20),
)
def test_passes_hold_every_row_once_and_no_more_than_fit(lengths, heads, most) -> None:
    pieces = [
        Piece(Progress(index, 0, length, 0, steered(length, heads=own)), 0, length)
        for index, (length, own) in enumerate(zip(lengths, heads, strict=False))
    ]
    done = dict.fromkeys(range(len(lengths)), 0)
    for batch in passes(pieces, most):
        assert 0 < sum(piece.end - piece.begin for piece in batch) <= most
        groups = [piece.progress.request.config.heads for piece in batch]
        assert len([1 for a, b in pairwise(groups) if a != b]) < 3
        for piece in batch:
            # In order: a later row reads what an earlier one has written.
            assert piece.begin == done[piece.progress.index]
            done[piece.progress.index] = piece.end
    assert list(done.values()) == lengths


def test_requests_that_read_a_block_in_the_step_that_changes_it_are_found() -> None:
    blocks = Blocks(np.array([[5, 6, 0], [5, 6, 7], [8, 9, 0]], dtype=np.int32), 16)
    first = Piece(Progress(0, 16, 16, 0, steered(32)), 31, 32)
    resumed = Progress(1, 32, 4, 16, decided(steered(32)))
    stranger = Progress(2, 20, 1, 20)
    assert sharers([first], [resumed, stranger], blocks) == [Piece(resumed, 32, 36)]
    # What does not read the changing block is left alone.
    assert sharers([first], [Progress(1, 16, 4, 16)], blocks) == []


def test_slots_follow_the_block_table() -> None:
    blocks = Blocks(np.array([[5, 2]], dtype=np.int32), 16)
    assert blocks.slots(0, np.array([0, 15, 16, 20])).tolist() == [80, 95, 32, 36]


def test_adaptive_requests_wait_like_others() -> None:
    request = SteeredRequest("id", AdaptVis(), 8, 7, np.zeros(8, dtype=bool))
    assert rows(request, 0, 7) is None
    assert rows(request, 7, 1) == (7, 8)


@pytest.mark.parametrize("kind", ["last_prompt_token", "generated"])
def test_a_prompt_of_one_chunk_is_run_again_at_its_end_only(kind) -> None:
    assert rows(steered(rows=kind), 0, 20) == (19, 20)
