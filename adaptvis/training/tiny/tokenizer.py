"""The word-level tokenizer of the tiny LLaVA: 64 words, lower-cased, punctuation split off.

It covers every question and answer of `adaptvis.data`; other words become `<unk>`.
"""

import re
from functools import lru_cache

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Punctuation, Sequence, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from adaptvis.data.scenes import COLORS, SHAPES

__all__ = [
    "ANSWER_CUE",
    "BOS",
    "EOS",
    "IMAGE",
    "PAD",
    "PREFIX",
    "VOCABULARY",
    "build_tokenizer",
    "encode_words",
]

PAD, UNK, BOS, EOS, IMAGE = range(5)
_SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
_WORDS = (
    *("user", "assistant", ":", "?", ".", ","),
    *("what", "where", "is", "are", "which", "there", "a", "the", "of", "in", "on", "at", "to"),
    *("and", "or", "it", "with", "answer", "one", "word", "relation", "image", "object", "objects"),
    *("color", "shape", "position", "side"),
    *("left", "right", "top", "bottom", "above", "below", "under", "behind", "front", "middle"),
    *("yes", "no", "not", "many", "how"),
    *COLORS,
    *SHAPES,
)
VOCABULARY: tuple[str, ...] = _SPECIAL + _WORDS
_IDS = {word: i for i, word in enumerate(VOCABULARY)}

PREFIX = (BOS, _IDS["user"], _IDS[":"])
"""Tokens before the image in `USER: <image>\\n{question} ASSISTANT:`."""
ANSWER_CUE = (_IDS["assistant"], _IDS[":"])
"""Tokens between question and answer."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer with left padding; adds the beginning-of-sequence token."""
    core = Tokenizer(WordLevel(dict(_IDS), unk_token="<unk>"))
    core.normalizer = Lowercase()
    core.pre_tokenizer = Sequence([WhitespaceSplit(), Punctuation()])
    core.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


@lru_cache(maxsize=65536)
def encode_words(text: str) -> tuple[int, ...]:
    """Token ids of plain text without special tokens; the same as the tokenizer's, but quick."""
    return tuple(_IDS.get(w, UNK) for w in re.findall(r"\w+|[^\w\s]", text.lower()))
