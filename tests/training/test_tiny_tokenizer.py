"""The tokenizer covers every question and answer, and the quick encoder agrees with it."""

import random

import pytest

from adaptvis.data.questions import CATEGORIES, KINDS_OF, questions_about
from adaptvis.data.scenes import random_scene
from adaptvis.training.tiny.tokenizer import (
    ANSWER_CUE,
    BOS,
    EOS,
    IMAGE,
    PAD,
    PREFIX,
    UNK,
    VOCABULARY,
    build_tokenizer,
    encode_words,
)


def all_texts() -> set[str]:
    rng = random.Random(0)
    texts = set()
    for _ in range(300):
        scene = random_scene(rng, rng.randint(2, 6), "train")
        for category in CATEGORIES:
            for kind in KINDS_OF[category]:
                for question in questions_about(scene, category, kind):
                    texts |= {question.text, question.answer, *question.candidates}
    return texts


def test_vocabulary_is_64_different_words() -> None:
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 64


def test_every_question_is_covered_and_both_encoders_agree() -> None:
    tokenizer = build_tokenizer()
    texts = sorted(all_texts())
    assert len(texts) > 1000
    for text, ids in zip(texts, tokenizer(texts).input_ids, strict=True):
        assert ids == [BOS, *encode_words(text)]
        assert UNK not in ids


def test_prompt_layout() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer("USER: <image>\nWhere is the cross? ASSISTANT:").input_ids
    question = encode_words("Where is the cross?")
    assert tuple(ids) == (*PREFIX, IMAGE, *question, *ANSWER_CUE)
    assert tokenizer.decode(encode_words("red circle"), skip_special_tokens=True) == "red circle"
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (PAD, EOS)
    assert tokenizer.padding_side == "left"


@pytest.mark.parametrize("text", ["a dog", "Größe", "1 2 3"])
def test_foreign_words_are_unknown(text: str) -> None:
    assert UNK in encode_words(text)
    assert list(encode_words(text)) == build_tokenizer()(text).input_ids[1:]
