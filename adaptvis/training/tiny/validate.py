"""Quick accuracy on held-out scenes during training, by group of question."""

from collections import defaultdict

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration

from adaptvis.data.prior import PriorSplit, generate_prior
from adaptvis.data.questions import KINDS_OF, Question
from adaptvis.data.samples import Sample
from adaptvis.data.scenes import Scene
from adaptvis.training.tiny.packing import EOS_WEIGHT, answer_logits, pack, patch_features
from adaptvis.training.tiny.stream import Batch, group_of, make_batch

__all__ = ["accuracy", "prior_validation_batch", "validation_batch"]


def validation_batch(images: int = 128, questions: int = 12) -> Batch:
    """Fixed validation scenes with 2 to 4 objects; the kinds of questions equally often."""
    groups = {group_of(c, k): 1.0 for c, kinds in KINDS_OF.items() for k in kinds}
    objects = {2: 1.0, 3: 1.0, 4: 1.0}
    return make_batch("validation", images, questions, objects, groups, part="validation")


def prior_validation_batch(split: PriorSplit, images: int = 150) -> Batch:
    """Fixed clean validation images of 2ds-prior with their three questions each."""
    grouped: dict[str, list[Sample]] = defaultdict(list)
    for sample in generate_prior(split, "validation", seed=0, count=3 * images):
        grouped[sample.image_id].append(sample)
    groups = list(grouped.values())
    return Batch(
        images=np.stack([np.asarray(g[0].image) for g in groups]),
        scenes=[Scene(())] * images,  # patch labels are not needed here
        questions=[
            [Question(s.question, s.answer, s.category) for s in g]  # type: ignore[arg-type]
            for g in groups
        ],
    )


@torch.no_grad()
def accuracy(
    model: LlavaForConditionalGeneration, batch: Batch, questions: int = 12
) -> dict[str, float]:
    """Share of questions, in per cent, whose answer words are all the most likely token."""
    packed = pack(batch, questions)
    logits = answer_logits(model, patch_features(model, packed.pixels), packed)
    wrong = (logits.argmax(-1) != packed.targets) & (packed.weights > EOS_WEIGHT)
    right: dict[str, list[bool]] = defaultdict(list)
    for b, asked in enumerate(batch.questions):
        for q, question in enumerate(asked):
            group = group_of(question.category, question.kind)
            if group == "what":
                group = f"what_{question.category.removesuffix('_absolute')}"
            right[group].append(not bool(wrong[b, q].any()))
    everything = [hit for hits in right.values() for hit in hits]
    shares = {group: 100 * sum(r) / len(r) for group, r in sorted(right.items())}
    return shares | {"all": 100 * sum(everything) / len(everything)}
