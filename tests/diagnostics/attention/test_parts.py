"""The parts of a prompt and the rows of words, with several kinds of tokenizers."""

import pytest
import torch
from hf.tiny_families import build
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from adaptvis.cli.models import embedded_models
from adaptvis.diagnostics.attention.parts import find_word, prompt_parts, word_rows
from adaptvis.errors import PromptError


def test_system_image_and_text() -> None:
    parts = prompt_parts(torch.tensor([1, 5, 9, 9, 6, 9, 7]), placeholder=9)
    assert parts.system.tolist() == [True, True, False, False, False, False, False]
    assert parts.image.tolist() == [False, False, True, True, False, True, False]
    assert parts.text.tolist() == [False, False, False, False, True, False, True]
    with pytest.raises(PromptError, match="without an image"):
        prompt_parts(torch.tensor([1, 2]), placeholder=9)


def pieces() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that cuts words into pieces."""
    vocabulary = ["left", "Ġle", "ft", "Ġright", "Ġleft", "most", "Ġred", "Ġsq", "uare", "?", "Ġof"]
    backend = Tokenizer(
        models.WordLevel({piece: i for i, piece in enumerate(vocabulary)}, unk_token="?")
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def rows_of(text: list[str], word: str, columns: list[bool] | None = None) -> int | None:
    tokenizer = pieces()
    ids = torch.tensor([tokenizer.convert_tokens_to_ids(piece) for piece in text])
    inside = torch.tensor([True] * len(ids) if columns is None else columns)
    return find_word(tokenizer, ids, word, inside)


def test_the_last_piece_of_the_last_occurrence() -> None:
    text = ["left", "Ġof", "Ġle", "ft", "Ġof", "Ġred", "Ġsq", "uare", "?"]
    assert rows_of(text, "left") == 3
    assert rows_of(text, "LEFT") == 3
    assert rows_of(text, "red  square") == 7
    assert rows_of(text, "right") is None
    assert rows_of(text, " ") is None


def test_part_of_a_word_is_no_word() -> None:
    assert rows_of(["Ġleft", "most", "Ġred"], "left") is None
    assert rows_of(["Ġleft", "most", "Ġred"], "most") is None
    assert rows_of(["Ġleft", "most", "Ġred"], "leftmost") == 1


def test_only_where_asked() -> None:
    text = ["left", "Ġof", "Ġleft"]
    assert rows_of(text, "left", [True, True, False]) == 0


def test_words_of_tiny_models() -> None:
    _, processor = build("llava")
    ids = processor.tokenizer("where is the red cat ? Red !", return_tensors="pt")["input_ids"][0]
    everywhere = torch.ones(len(ids), dtype=torch.bool)
    # "Red" is a word that this vocabulary lacks.
    assert find_word(processor.tokenizer, ids, "red", everywhere) == 3
    embedded = AutoProcessor.from_pretrained(embedded_models()["tiny-2ds-seed1"])
    text = "USER: <image>\nIs the red circle to the left of the blue cross? ASSISTANT:"
    ids = embedded.tokenizer(text, return_tensors="pt")["input_ids"][0]
    parts = prompt_parts(ids, embedded.tokenizer.convert_tokens_to_ids("<image>"))
    rows = word_rows(embedded.tokenizer, ids, parts, ("left", "cross", "green"))
    decoded = {word: embedded.tokenizer.decode(ids[row]).strip() for word, row in rows.items()}
    assert decoded == {"left": "left", "cross": "cross"}
