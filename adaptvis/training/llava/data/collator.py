"""Samples into a batch, padded on the right."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adaptvis.training.llava.data.tokens import IGNORED, ImageTokens

__all__ = ["Collator"]


class Collator:
    """Pads `input_ids` and `labels` to the longest sample and joins the images of all samples.

    A batch holds input_ids, labels and attention_mask, int64 [samples, longest], and pixel_values,
    float32 [images of all samples, 3, height, width], in the order of their placeholders.

    A batch of text alone would leave the vision tower and the projector out of the step, on which
    DDP and FSDP wait for ever. With `image_tokens` such a batch gets one blank image whose
    placeholders stand after the first sample's text, with attention 0 and without labels: every
    parameter takes part, and neither the loss nor any gradient changes (LLaVA does the same with
    a blank image that it then leaves out). Without `image_tokens` the batch has no pixel_values.

    Args:
        pad_token_id: fills input_ids.
        image_tokens: the data set's, for batches without image.
    """

    def __init__(self, pad_token_id: int, *, image_tokens: ImageTokens | None = None) -> None:
        self.pad_token_id = pad_token_id
        self.image_tokens = image_tokens

    def __call__(self, samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        ids = [sample["input_ids"] for sample in samples]
        labels = [sample["labels"] for sample in samples]
        masks = [torch.ones_like(row) for row in ids]
        images = [sample["pixel_values"] for sample in samples if "pixel_values" in sample]
        if not images and self.image_tokens is not None:
            image = self.image_tokens
            dummy = ids[0].new_full((image.count,), image.token_id)
            ids[0] = torch.cat([ids[0], dummy])
            labels[0] = torch.cat([labels[0], torch.full_like(dummy, IGNORED)])
            masks[0] = torch.cat([masks[0], torch.zeros_like(dummy)])
            images = [torch.zeros(1, 3, image.height, image.width)]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
            "attention_mask": pad_sequence(masks, batch_first=True, padding_value=0),
        }
        if images:
            batch["pixel_values"] = torch.cat(images)
        return batch
