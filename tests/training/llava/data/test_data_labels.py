"""Which tokens are learnt: every expectation is written out, or found by walking the tokens."""

from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models
from training.llava.data.conftest import build_processor, turns
from transformers import LlavaProcessor, PreTrainedTokenizerFast

from adaptvis.errors import UnsupportedError
from adaptvis.training.llava.data import ConversationDataset

Load = Callable[..., ConversationDataset]


def learnt(processor: Any, item: dict[str, Any]) -> list[tuple[str, bool]]:
    """(token, whether it has loss) of an item; a label is its token or -100."""
    pairs = []
    for token, label in zip(item["input_ids"].tolist(), item["labels"].tolist(), strict=True):
        assert label in (token, -100)
        pairs.append((processor.tokenizer.convert_ids_to_tokens(token), label != -100))
    return pairs


def test_tiny_model_learns_answer_and_end(load: Load, tiny: Any) -> None:
    conversation = turns("<image>\nWhere is the red circle?", "left")
    item = load([{"id": 1, "image": "a.png", "conversations": conversation}])[0]
    words = ["where", "is", "the", "red", "circle", "?", "assistant", ":"]
    prompt = ["<s>", "user", ":", *["<image>"] * 49, *words]
    assert learnt(tiny, item) == [(w, False) for w in prompt] + [("left", True), ("</s>", True)]
    assert item["pixel_values"].shape == (1, 3, 56, 56)


def test_tiny_model_learns_every_answer_of_a_conversation(load: Load, tiny: Any) -> None:
    conversation = turns("<image>\nWhat is there?", "a red cross", "Is it red?", "yes")
    item = load([{"image": "a.png", "conversations": conversation}])[0]
    expected = [(w, False) for w in ["<s>", "user", ":", *["<image>"] * 49]]
    expected += [(w, False) for w in ["what", "is", "there", "?", "assistant", ":"]]
    expected += [(w, True) for w in ["a", "red", "cross", "</s>"]]
    expected += [(w, False) for w in ["user", ":", "is", "it", "red", "?", "assistant", ":"]]
    expected += [("yes", True), ("</s>", True)]
    assert learnt(tiny, item) == expected


CONVERSATIONS = [
    (("<image>\nWhat is it?", "A red circle."),),
    (("<image>\nWhat is it?", "A naïve café, 東京 🙂"), ("And where?", "left, not right")),
    (("Hello there", "Good day"), ("<image>\nDescribe it", "two cats"), ("Sure?", "USER: yes")),
]


@pytest.mark.parametrize("rounds", CONVERSATIONS)
def test_vicuna_labels_agree_with_a_walk_over_the_tokens(
    load: Load, vicuna: LlavaProcessor, rounds: tuple[tuple[str, str], ...]
) -> None:
    """The text is written by hand, and each token's place in it found from its own characters."""
    image = any("<image>" in question for question, _ in rounds)
    sample = {"conversations": turns(*[text for pair in rounds for text in pair])}
    item = load([sample | ({"image": "a.png"} if image else {})], processor=vicuna)[0]
    segments = []
    for question, answer in rounds:
        segments.append((f"USER: {question.replace('<image>', '<image>' * 4)} ASSISTANT:", False))
        segments.append((f" {answer}</s>", True))
    text = "".join(segment for segment, _ in segments)
    flags = [learn for segment, learn in segments for _ in segment.encode()]
    expected, at = [("<s>", False)], 0
    backend = vicuna.tokenizer.backend_tokenizer
    for token in vicuna.tokenizer.convert_ids_to_tokens(item["input_ids"].tolist())[1:]:
        length = len(_bytes_of(token, backend, text.encode()[at:]))
        expected.append((token, any(flags[at : at + length])))
        at += length
    assert at == len(flags)
    assert learnt(vicuna, item) == expected


def _bytes_of(token: str, backend: Tokenizer, rest: bytes) -> bytes:
    """A token's own bytes; `rest` of the text only tells how long an unknown character is."""
    if token in ("</s>", "<image>"):
        return token.encode()
    if token == "<unk>":
        return rest.decode()[0].encode()
    if type(backend.decoder).__name__ == "Metaspace":
        spaced = token.replace("▁", " ")
        # The word mark before the very first word stands for no character.
        return spaced.encode() if rest.startswith(spaced.encode()) else spaced[1:].encode()
    return bytes(BYTES[character] for character in token)


def _gpt2_bytes() -> dict[str, int]:
    """GPT-2's table of characters for bytes, by its definition."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


BYTES = _gpt2_bytes()


def test_training_tokens_are_those_of_inference(load: Load, vicuna: LlavaProcessor) -> None:
    question, answer = "Where are the cats?", "The cats are above the dog."
    conversation = turns(f"{question}\n<image>", answer)
    item = load([{"image": "a.png", "conversations": conversation}], processor=vicuna)[0]
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    prompt = vicuna.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    picture = Image.new("RGB", (30, 40))
    asked = vicuna(text=prompt, images=picture)["input_ids"][0]
    whole = vicuna(text=f"{prompt} {answer}</s>", images=picture)["input_ids"][0]
    assert item["input_ids"].tolist() == whole
    assert whole[: len(asked)] == asked
    assert item["labels"].tolist() == [-100] * len(asked) + whole[len(asked) :]


def _merging(merges: list[tuple[str, str]]) -> PreTrainedTokenizerFast:
    """Characters and the given merges, which reach over words."""
    characters = sorted(set("USERASITN: abcq\n"))
    tokens = ["<unk>", "<s>", "</s>", "<pad>", "<image>", *characters, *(a + b for a, b in merges)]
    core = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>"))
    core.add_special_tokens([AddedToken(name, special=True) for name in tokens[:5]])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


@pytest.mark.parametrize(
    ("merges", "expected"),
    [
        # The prompt's colon and the space become one token, which holds no word of the answer.
        ([(":", " ")], [("T", False), (": ", False), ("a", True), ("b", True), ("</s>", True)]),
        # Colon, space and the answer's first letter are one token: it has to be learnt.
        ([(":", " "), (": ", "a")], [("T", False), (": a", True), ("b", True), ("</s>", True)]),
        ([(" ", "a"), ("a", "b")], [(":", False), (" a", True), ("b", True), ("</s>", True)]),
    ],
)
def test_tokens_across_the_border_belong_to_whoever_has_words_in_them(
    load: Load, merges: list[tuple[str, str]], expected: list[tuple[str, bool]]
) -> None:
    processor = build_processor(_merging(merges))
    item = load([{"conversations": turns("q", "ab")}], processor=processor)[0]
    assert learnt(processor, item)[-len(expected) :] == expected
    joined = processor.tokenizer("USER: q ASSISTANT: ab</s>")["input_ids"]
    parts = [processor.tokenizer(t)["input_ids"] for t in ("USER: q ASSISTANT:", " ab</s>")]
    assert item["input_ids"].tolist() == joined
    assert (joined == parts[0] + parts[1]) == (merges[0] == (" ", "a"))


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_template_with_its_own_end_marker_is_taken_as_it_is(load: Load) -> None:
    tokenizer = _merging([])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    processor = build_processor(tokenizer, CHATML)
    item = load([{"conversations": turns("q", "a", "q", "b")}], processor=processor)[0]
    ending = [t for t in learnt(processor, item) if t[1]]
    assert ending == [("a", True), ("<|im_end|>", True), ("b", True), ("<|im_end|>", True)]
    assert learnt(processor, item)[-1] == ("<|im_end|>", True)
    after = learnt(processor, item).index(("<|im_end|>", True)) + 1
    assert learnt(processor, item)[after] == ("\n", False)


def test_template_that_alters_answers_is_refused(load: Load) -> None:
    template = CHATML.replace("c['text']", "c['text'].upper()")
    with pytest.raises(UnsupportedError, match="does not repeat the answer"):
        load(
            [{"conversations": turns("q", "a")}], processor=build_processor(_merging([]), template)
        )[0]


def test_plain_style_learns_the_caption_only(load: Load, vicuna: LlavaProcessor) -> None:
    sample = {"image": "a.png", "conversations": turns("Describe this.\n<image>", "A red circle.")}
    item = load([sample], processor=vicuna, prompt_style="plain")[0]
    whole = vicuna(text="<image>A red circle.\n", images=Image.new("RGB", (9, 9)))["input_ids"][0]
    assert item["input_ids"].tolist() == whole
    assert item["labels"].tolist() == [-100] * 5 + whole[5:]


def test_images_move_to_the_front_of_their_turn(load: Load, tiny: Any) -> None:
    conversation = turns("Is <image> above <image>?", "no", "<image> and this?", "yes")
    item = load([{"image": ["a.png", "b.png", "c.png"], "conversations": conversation}])[0]
    tokens = [token for token, _ in learnt(tiny, item)]
    assert tokens[:101] == ["<s>", "user", ":", *["<image>"] * 98]
    assert tokens[101:110] == ["is", "above", "?", "assistant", ":", "no", "</s>", "user", ":"]
    assert tokens[110:159] == ["<image>"] * 49
    alone = [
        load([{"image": f"{x}.png", "conversations": turns("<image>", "a")}])[0] for x in "abc"
    ]
    for number in range(3):
        assert item["pixel_values"][number].equal(alone[number]["pixel_values"][0])


def test_text_only_sample_has_no_pixels(load: Load, tiny: Any) -> None:
    item = load([{"conversations": turns("Is it red?", "no")}])[0]
    assert set(item) == {"input_ids", "labels"}
    assert [t for t, _ in learnt(tiny, item)] == [
        "<s>",
        "user",
        ":",
        "is",
        "it",
        "red",
        "?",
        "assistant",
        ":",
        "no",
        "</s>",
    ]


def test_empty_answers_and_open_questions_are_not_learnt(load: Load, tiny: Any) -> None:
    conversation = [{"from": "gpt", "value": "yes"}, *turns("Is it?", "", "Where?", "left", "And?")]
    item = load([{"conversations": conversation}])[0]
    assert [t for t, learn in learnt(tiny, item) if learn] == ["left", "</s>"]
    assert [t for t, _ in learnt(tiny, item)][:3] == ["<s>", "user", ":"]
