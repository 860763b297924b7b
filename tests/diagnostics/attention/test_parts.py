"""The parts of a prompt and the rows of words, with several kinds of tokenizers."""

import copy

import pytest
import torch
from hf.helpers import image
from hf.tiny_families import build
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from adaptvis.cli.models import embedded_models
from adaptvis.diagnostics.attention.parts import find_word, prompt_parts, word_rows
from adaptvis.engine import Query
from adaptvis.errors import PromptError
from adaptvis.model_inputs import prompt_text


def test_system_image_and_text() -> None:
    parts = prompt_parts(torch.tensor([1, 5, 9, 9, 6, 9, 7]), placeholder=9)
    assert parts.system.tolist() == [True, True, False, False, False, False, False]
    assert parts.image.tolist() == [False, False, True, True, False, True, False]
    assert parts.text.tolist() == [False, False, False, False, True, False, True]
    with pytest.raises(PromptError, match="without an image"):
        prompt_parts(torch.tensor([1, 2]), placeholder=9)


TURNS = (
    "{{% for message in messages %}}{{{{ message['role'] }}}} : {}{{% endfor %}}"
    "{{% if add_generation_prompt %}}assistant :{{% endif %}}"
)
IMAGES = "{% for p in message['content'] if p['type'] == 'image' %}<image>\n{% endfor %}"
WORDS = "{% for p in message['content'] if p['type'] == 'text' %}{{ p['text'] }} {% endfor %}"


def tokens_by_part(processor, query: Query) -> dict[str, list[str]]:
    """The tokens of each part, in order; image tokens are left out."""
    text = prompt_text(processor, query, "")
    inputs = processor(text=text, images=list(query.images), return_tensors="pt")
    ids = inputs["input_ids"][0]
    placeholder = processor.tokenizer.convert_tokens_to_ids("<image>")
    parts = prompt_parts(ids, placeholder, processor, query)
    names = processor.tokenizer.convert_ids_to_tokens(ids)
    assert bool((parts.system.int() + parts.text.int() + parts.image.int() <= 1).all())
    masks = {"system": parts.system, "text": parts.text, "markup": parts.markup}
    return {
        part: [name for name, inside in zip(names, mask.tolist(), strict=True) if inside]
        for part, mask in masks.items()
    }


@pytest.mark.parametrize("order", [IMAGES + WORDS, WORDS + IMAGES])
def test_the_template_tells_the_system_prompt_and_the_users_words(order) -> None:
    """Also where the user's words stand before the image."""
    processor = copy.copy(build("llava")[1])
    query = Query("where is the red cat ?", (image(0),))
    plain = {"system": [], "text": query.prompt.split(), "markup": ["user", ":", "\n"]}
    plain["markup"] += ["assistant", ":"]
    processor.chat_template = TURNS.format(order)
    assert tokens_by_part(processor, query) == plain
    # A system prompt that has words of the user's, and of the markup.
    processor.chat_template = "<bos>here you help user : where the red cat is .\n" + TURNS.format(
        order
    )
    system = [
        "<bos>",
        *["here", "you", "help", "user", ":", "where", "the", "red", "cat", "is", "."],
        "\n",
    ]
    assert tokens_by_part(processor, query) == {**plain, "system": system}


def test_a_raw_prompt_has_only_what_stands_before_and_behind_the_image() -> None:
    processor = build("llava")[1]
    raw = Query("user : <image> where is the cat ? assistant :", (image(0),), raw=True)
    assert tokens_by_part(processor, raw) == {
        "system": ["user", ":"],
        "text": ["where", "is", "the", "cat", "?", "assistant", ":"],
        "markup": [],
    }


def test_parts_of_an_embedded_model() -> None:
    processor = AutoProcessor.from_pretrained(embedded_models()["tiny-2ds-seed1"])
    query = Query("Is the red circle to the left of the blue cross?", (image(0),))
    parts = tokens_by_part(processor, query)
    # Its tokenizer writes small letters.
    assert "".join(parts["text"]).replace("Ġ", "") == query.prompt.lower().replace(" ", "")
    markup = "".join(parts["markup"]).lower()
    assert "user" in markup
    assert "assistant" in markup


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
