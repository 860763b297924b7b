"""Samples per second of training data: generated 2DS, data set and collator, with 0 and 1 workers.

python benchmarks/data_loading.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from torch.utils.data import DataLoader
from transformers import AutoProcessor

from adaptvis.training.llava.data import (
    Collator,
    ConversationDataset,
    ModalityLengthSampler,
    write_two_ds,
)

TINY = Path(__file__).parents[1] / "adaptvis/assets/models/tiny-2ds-seed0"


def samples_per_second(
    dataset: ConversationDataset, collate: Any, batch: int, workers: int, epoch: int
) -> float:
    """Of one epoch in training order; starting the workers counts."""
    sampler = ModalityLengthSampler(dataset.lengths, batch)
    sampler.set_epoch(epoch)
    loader = DataLoader(dataset, batch, sampler=sampler, collate_fn=collate, num_workers=workers)
    start = time.perf_counter()
    for _ in loader:
        pass
    return len(dataset) / (time.perf_counter() - start)


def main(
    images: Annotated[int, typer.Option(help="Images, four questions each.")] = 1000,
    batch: Annotated[int, typer.Option(help="Samples per batch.")] = 16,
    rounds: Annotated[int, typer.Option(help="Epochs measured, the median is printed.")] = 3,
) -> None:
    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(TINY)
    with tempfile.TemporaryDirectory() as folder:
        written = write_two_ds(folder, images=images, questions_per_image=4, seed=0)
        for workers in (0, 1):
            # A fresh data set has an empty cache: the first epoch tokenises every question.
            dataset = ConversationDataset(
                written.data, image_folder=written.image_folder, processor=processor
            )
            collate = Collator(processor.tokenizer.pad_token_id, image_tokens=dataset.image_tokens)
            rates = [
                samples_per_second(dataset, collate, batch, workers, epoch)
                for epoch in range(rounds)
            ]
            print(
                f"{workers} workers: {rates[0]:.0f} samples/s in the first epoch, "
                f"{median(rates):.0f} at the median of {rounds}"
            )


if __name__ == "__main__":
    typer.run(main)
