"""Batches that hold prompts and the answers to be scored behind them."""

from __future__ import annotations

import torch
from hf.eager_reference import Spec, reference
from hf.helpers import Case

__all__ = ["Scored"]

ANSWERS = [[31, 44, 27], [52, 19, 60, 33, 41]]


class Scored:
    """A family's prompts of unequal length with answers of unequal length, padded on one side.

    lengths: tokens of each prompt. ends: the column behind each.
    """

    def __init__(self, case: Case, side: str = "right", answers=None) -> None:
        self.case = case
        self.answers = ANSWERS[: len(case.ids)] if answers is None else answers
        real = case.inputs["attention_mask"].bool()
        self.lengths = real.sum(1).tolist()
        totals = [n + len(answer) for n, answer in zip(self.lengths, self.answers, strict=True)]
        width = max(totals)
        self.starts = [0 if side == "right" else width - total for total in totals]
        self.ends = [start + n for start, n in zip(self.starts, self.lengths, strict=True)]
        # What stands behind a prompt: PaliGemma calls it the suffix.
        behind = {"token_type_ids": int(case.family == "paligemma"), "attention_mask": 1}
        self.inputs = dict(case.inputs)
        for name, tensor in case.inputs.items():
            if tensor.shape != case.ids.shape:
                continue
            rows = tensor.new_zeros((len(tensor), width))
            for b, answer in enumerate(self.answers):
                new = answer if name == "input_ids" else [behind.get(name, 0)] * len(answer)
                line = torch.cat([tensor[b][real[b]], tensor.new_tensor(new)])
                rows[b, self.starts[b] : self.starts[b] + len(line)] = line
            self.inputs[name] = rows
        self.ids = self.inputs["input_ids"]
        self.columns = self.ids == case.model.config.image_token_id
        self.labels = torch.full_like(self.ids, -100)
        for b, answer in enumerate(self.answers):
            self.labels[b, self.ends[b] : self.ends[b] + len(answer)] = torch.tensor(answer)

    def rows(self, kind: str) -> torch.Tensor:
        """The steered rows, by plain loops."""
        rows = torch.zeros_like(self.columns)
        for b, end in enumerate(self.ends):
            seen = False
            for n in range(self.starts[b], end + len(self.answers[b])):
                seen = seen or bool(self.columns[b, n])
                rows[b, n] = {
                    "last_prompt_token": n == end - 1,
                    "generated": n >= end - 1,
                    "text_after_image": n < end and seen and not self.columns[b, n],
                }[kind]
        return rows

    def of_answers(self, logits):
        """The logits that score each answer: [len(answer), V] per row."""
        return [
            logits[b, end - 1 : end - 1 + len(answer)]
            for b, (end, answer) in enumerate(zip(self.ends, self.answers, strict=True))
        ]

    @torch.no_grad()
    def reference(self, alpha, kind="last_prompt_token", **options):
        """Logits [B, N, V] of full eager steering without a cache; alpha None steers nothing."""
        assert "forward" not in self.case.model.__dict__
        spec = None
        if alpha is not None:
            alpha = torch.as_tensor(alpha, dtype=torch.float32).expand(len(self.ids))
            spec = Spec(self.rows(kind), self.columns, alpha, **options)
        with reference(self.case.decoder, spec):
            return self.case.model(**self.inputs, use_cache=False).logits
