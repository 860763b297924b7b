"""Batches: padding, images of mixed samples, a text-only batch in a real model, workers."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from training.llava.data.conftest import TINY, turns
from transformers import AutoModelForImageTextToText

from adaptvis.training.llava.data import Collator, ConversationDataset, ImageTokens

Load = Callable[..., ConversationDataset]
SAMPLES = [
    {"image": ["b.png", "c.png"], "conversations": turns("<image><image>\nIs it?", "yes")},
    {"conversations": turns("Is it?", "no")},
    {"image": "a.png", "conversations": turns("<image>\nIs it?", "yes")},
]


def test_batch_of_mixed_samples_is_padded_on_the_right(load: Load) -> None:
    items = list(load(SAMPLES))
    batch = Collator(0)(items)
    longest = 3 + 98 + 7
    assert batch["input_ids"].shape == batch["labels"].shape == (3, longest)
    for row, item in enumerate(items):
        length = len(item["input_ids"])
        assert batch["input_ids"][row].tolist() == [*item["input_ids"], *[0] * (longest - length)]
        assert batch["labels"][row].tolist() == [*item["labels"], *[-100] * (longest - length)]
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (longest - length)
    pictures = [
        items[0]["pixel_values"][0],
        items[0]["pixel_values"][1],
        items[2]["pixel_values"][0],
    ]
    assert batch["pixel_values"].equal(torch.stack(pictures))


def test_batch_of_text_alone_gets_a_masked_blank_image(load: Load) -> None:
    item = load(SAMPLES)[1]
    batch = Collator(0, image_tokens=ImageTokens(4, 3, 5, 6))([item, item])
    ids = item["input_ids"].tolist()
    assert batch["input_ids"].tolist() == [[*ids, 4, 4, 4], [*ids, 0, 0, 0]]
    assert batch["labels"][:, len(ids) :].tolist() == [[-100] * 3] * 2
    assert batch["attention_mask"].tolist() == [[1] * len(ids) + [0] * 3] * 2
    assert batch["pixel_values"].equal(torch.zeros(1, 3, 5, 6))
    assert "pixel_values" not in Collator(0)([item])
    assert item["input_ids"].tolist() == ids


def test_blank_image_changes_neither_loss_nor_gradients(load: Load) -> None:
    dataset = load(
        [{"conversations": turns(f"Is {x} it?", "no")} for x in ("red", "blue", "red the")]
    )
    model = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.float32)
    results = []
    for tokens in (None, dataset.image_tokens):
        model.zero_grad()
        loss = model(**Collator(0, image_tokens=tokens)(list(dataset))).loss
        loss.backward()
        results.append((loss.item(), {n: p.grad for n, p in model.named_parameters()}))
    (plain, gradients), (dummy, with_image) = results
    assert dummy == pytest.approx(plain, rel=1e-6)
    projector = [name for name in gradients if "multi_modal_projector" in name]
    for name, gradient in with_image.items():
        if gradients[name] is not None:
            torch.testing.assert_close(gradient, gradients[name], rtol=1e-4, atol=1e-6)
    assert projector
    for name in projector:
        assert gradients[name] is None
        assert with_image[name].abs().max() == 0


def test_worker_gives_the_same_batches(load: Load) -> None:
    dataset = load(SAMPLES * 2)
    alone = list(DataLoader(dataset, 2, collate_fn=Collator(0)))
    loader: Any = DataLoader(
        dataset, 2, collate_fn=Collator(0), num_workers=1, multiprocessing_context="fork"
    )
    for expected, batch in zip(alone, loader, strict=True):
        assert set(batch) == set(expected)
        assert all(batch[name].equal(expected[name]) for name in batch)


def test_data_set_can_be_sent_to_spawned_workers(load: Load) -> None:
    """Pickling is what spawning does; a spawned worker itself takes seconds to import torch."""
    dataset = load(SAMPLES)
    before = list(dataset)
    sent = pickle.loads(pickle.dumps(dataset))
    for expected, item in zip(before, sent, strict=True):
        assert set(item) == set(expected)
        assert all(item[name].equal(expected[name]) for name in item)


def test_lengths_have_the_sign_of_the_modality(load: Load) -> None:
    dataset = load(SAMPLES, "data.jsonl", limit=2)
    assert len(dataset) == len(dataset.lengths) == 2
    assert dataset.lengths[0] > 98
    assert -20 < dataset.lengths[1] < 0
