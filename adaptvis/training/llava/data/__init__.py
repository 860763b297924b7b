"""LLaVA-format training data: samples, labels, batches, order, checks; 2DS in that format."""

from adaptvis.training.llava.data.checking import Problem, check
from adaptvis.training.llava.data.collator import Collator
from adaptvis.training.llava.data.dataset import ConversationDataset
from adaptvis.training.llava.data.sampler import ModalityLengthSampler, WholeSteps
from adaptvis.training.llava.data.tokens import IGNORED, ImageTokens
from adaptvis.training.llava.data.two_ds import WrittenTwoDS, write_two_ds

__all__ = [
    "IGNORED",
    "Collator",
    "ConversationDataset",
    "ImageTokens",
    "ModalityLengthSampler",
    "Problem",
    "WholeSteps",
    "WrittenTwoDS",
    "check",
    "write_two_ds",
]
