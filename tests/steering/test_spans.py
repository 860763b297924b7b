"""Image spans, image numbers and steered rows against plain loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptvis.steering.spans import image_ordinals, run_lengths, steered_rows, tokens_of_images

batches = st.integers(1, 4).flatmap(
    lambda rows: st.integers(1, 30).flatmap(
        lambda columns: st.lists(
            st.lists(st.booleans(), min_size=columns, max_size=columns),
            min_size=rows,
            max_size=rows,
        )
    )
)


def loops(row):
    """(image number of each token, run lengths) of one prompt."""
    ordinals, lengths, inside = [], [], False
    for token in row:
        if token and not inside:
            lengths.append(0)
        if token:
            lengths[-1] += 1
        ordinals.append(len(lengths) - 1 if token else -1)
        inside = token
    return ordinals, lengths


@given(batches)
def test_runs_of_placeholders_are_images_in_order(batch):
    tokens = torch.tensor(batch)
    assert run_lengths(tokens) == [loops(row)[1] for row in batch]
    assert image_ordinals(tokens).tolist() == [loops(row)[0] for row in batch]


@given(batches, st.sets(st.integers(0, 3), min_size=1))
def test_choosing_images_picks_exactly_their_tokens(batch, images):
    tokens = torch.tensor(batch)
    chosen = tokens_of_images(image_ordinals(tokens), sorted(images))
    assert chosen.tolist() == [[n in images for n in loops(row)[0]] for row in batch]


def test_adjacent_images_are_told_apart_by_their_lengths():
    tokens = torch.tensor([[False, True, True, True, True, True, False]])
    assert image_ordinals(tokens, [[2, 3]]).tolist() == [[-1, 0, 0, 1, 1, 1, -1]]
    with pytest.raises(ValueError, match="5 image tokens, but its images account for 4"):
        image_ordinals(tokens, [[2, 2]])


@given(batches, st.data())
def test_steered_rows_follow_their_definition(batch, data):
    tokens = torch.tensor(batch)
    length = data.draw(st.integers(1, tokens.shape[1]))
    pads = data.draw(st.lists(st.integers(0, length - 1), min_size=len(batch), max_size=len(batch)))
    padding = torch.arange(tokens.shape[1])[None] < torch.tensor(pads)[:, None]
    for b, row in enumerate(batch):
        for n in range(len(row)):
            real = n >= pads[b]
            after = any(row[: n + 1]) and not row[n] and n < length
            chosen = {
                rows: bool(steered_rows(rows, tokens, length, padding)[b, n])
                for rows in ("last_prompt_token", "generated", "text_after_image")
            }
            assert chosen == {
                "last_prompt_token": n == length - 1 and real,
                "generated": n >= length - 1 and real,
                "text_after_image": after and real,
            }


@given(batches, st.data())
def test_every_prompt_may_end_elsewhere_and_placeholders_of_videos_are_no_text(batch, data):
    tokens = torch.tensor(batch)
    length = tokens.shape[1]
    ends = data.draw(
        st.lists(st.integers(0, length), min_size=len(batch), max_size=len(batch)), label="ends"
    )
    videos = torch.tensor(
        data.draw(
            st.lists(
                st.lists(st.booleans(), min_size=length, max_size=length),
                min_size=len(batch),
                max_size=len(batch),
            )
        )
    )
    chosen = {
        rows: steered_rows(rows, tokens, ends, placeholders=videos).tolist()
        for rows in ("last_prompt_token", "generated", "text_after_image")
    }
    for b, row in enumerate(batch):
        for n in range(length):
            text = any(row[: n + 1]) and not row[n] and not videos[b, n]
            assert {rows: chosen[rows][b][n] for rows in chosen} == {
                "last_prompt_token": n == ends[b] - 1,
                "generated": n >= ends[b] - 1,
                "text_after_image": text and n < ends[b],
            }
