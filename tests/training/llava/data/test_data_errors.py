"""Bad samples: one sentence with file, index and id; `check` finds them before training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training.llava.data.conftest import turns

from adaptvis.errors import AdaptVisWarning, ConfigError, DataError
from adaptvis.training.llava.data import ConversationDataset, check
from adaptvis.training.llava.data.index import index_samples

Load = Callable[..., ConversationDataset]
GOOD = {"id": "good", "image": "a.png", "conversations": turns("<image>\nIs it?", "yes")}
HUMAN, GPT = turns("<image>\nIs it?", "yes")

BAD = [
    ({"conversations": "text"}, "'conversations' must be a list of turns, got str"),
    ({"conversations": None}, "'conversations' must be a list of turns, got NoneType"),
    ({"conversations": []}, "the conversation is empty"),
    ({"conversations": [HUMAN]}, "the conversation is empty"),
    ({"conversations": [HUMAN, {"from": "narrator", "value": "x"}]}, "turn 1 is from 'narrator'"),
    ({"conversations": [HUMAN, {"from": ["gpt"], "value": "x"}]}, "known roles are human and gpt"),
    ({"conversations": [HUMAN, {"from": "gpt"}]}, "turn 1 must be an object with"),
    ({"conversations": [HUMAN, "yes"]}, "turn 1 must be an object with"),
    ({"conversations": [HUMAN, HUMAN, GPT]}, "turns 0 and 1 are both of the user"),
    ({"conversations": [HUMAN, GPT, GPT]}, "turns 1 and 2 are both of the assistant"),
    ({"conversations": turns("<image> <image>", "x")}, "more image placeholders than images (2"),
    ({"image": None}, "more image placeholders than images (1"),
    ({"image": ["a.png", "b.png"]}, "fewer image placeholders than images (1"),
    ({"conversations": turns("<image> x", "<image>")}, "turn 1 is an answer and holds <image>"),
    ({"image": 3}, "'image' must be a file name or a list of them, got 3"),
    ({"image": [""]}, "'image' must be a file name or a list of them"),
    ({"image": "none.png"}, "none.png does not exist"),
    ({"image": "data.json"}, "data.json cannot be read (not an image"),
    ({"image": "../a.png"}, "image '../a.png' lies outside the folder"),
    ({"image": "/etc/passwd"}, "image '/etc/passwd' lies outside the folder"),
    ({"image": "link.png"}, "image 'link.png' lies outside the folder"),
    ({"image": "a\0.png"}, "is not a file name"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_bad_sample_is_named(
    load: Load, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    (tmp_path / "link.png").symlink_to("/etc/hostname")
    dataset = load([GOOD, GOOD | {"id": "x7"} | change])
    with pytest.raises(DataError) as caught:
        dataset[1]
    text = str(caught.value)
    assert text.startswith(f"{dataset.path}, sample 1 (id 'x7'): ")
    assert message in text
    assert "\n" not in text
    assert [(p.index, p.message, p.fatal) for p in check(dataset)] == [(1, text, True)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('"value": "\\ud83d"', r"'\\ud83d' is half of a character"),
        ('"value": "yes", "value": "no"', "the key 'value' is given twice"),
    ],
)
def test_what_json_lets_pass_is_named(load: Load, line: str, message: str) -> None:
    path = load([GOOD, GOOD]).path
    path.write_text(path.read_text().replace('"value": "yes"', line))
    with pytest.raises(DataError, match=f"sample 1: {message}"):
        index_samples(path).read(1)


def test_sample_that_is_no_object_is_named(load: Load) -> None:
    with pytest.raises(DataError, match=r"sample 1: a JSON object is expected, got list"):
        load([GOOD, []])[1]


def test_images_need_a_folder(load: Load) -> None:
    dataset = load([GOOD], image_folder=None)
    with pytest.raises(DataError, match="no image folder was given"):
        dataset[0]


def test_check_reports_all_problems_and_its_progress(load: Load) -> None:
    missing = GOOD | {"image": "none.png"}
    dataset = load([*[GOOD] * 150, missing, GOOD, missing])
    seen: list[tuple[int, int]] = []
    problems = check(dataset, progress=lambda *done: seen.append(done))
    assert [p.index for p in problems] == [150, 152]
    assert seen == [(100, 153), (153, 153)]
    assert [p.index for p in check(dataset, most=1)] == [150]


def test_truncated_picture_is_found_by_decoding(load: Load, tmp_path: Path) -> None:
    dataset = load([GOOD])
    picture = tmp_path / "a.png"
    picture.write_bytes(picture.read_bytes()[:800])
    assert check(dataset) == []
    (problem,) = check(dataset, decode=True)
    assert "a.png cannot be read" in problem.message
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        dataset[0]


def test_spelled_out_image_token_is_refused(load: Load, vicuna: Any) -> None:
    token, vicuna.image_token = vicuna.image_token, "<pad>"
    try:
        sample = {"conversations": turns("Is it <pad>?", "yes")}
        template = vicuna.chat_template
        dataset = load([sample], processor=vicuna)
        with pytest.raises(DataError, match="1 image tokens for 0 images"):
            dataset[0]
        assert "1 image tokens for 0 images" in check(dataset)[0].message
        assert vicuna.chat_template == template
    finally:
        vicuna.image_token = token


@pytest.mark.parametrize("length", [60, 61, 62, 63, 200])
def test_long_samples_are_cut_at_the_end(load: Load, length: int) -> None:
    sample = {"image": "a.png", "conversations": turns("<image>\nIs it red?", "no yes no")}
    whole, cut = load([sample])[0], load([sample], max_length=length)[0]
    # <s> user : 49 images, is it red ? assistant : no yes no </s>
    assert len(whole["input_ids"]) == 62
    for name in ("input_ids", "labels"):
        assert cut[name].tolist() == whole[name][:length].tolist()


def test_image_that_does_not_fit_is_refused(load: Load) -> None:
    dataset = load([GOOD], max_length=51)
    with pytest.raises(DataError, match="its images end at token 52 and max_length is 51"):
        dataset[0]
    assert check(dataset)[0].fatal
    assert check(load([GOOD], max_length=56))[0].fatal is False


def test_sample_with_nothing_to_learn_is_counted_and_warned_about(load: Load) -> None:
    dataset = load([GOOD, GOOD | {"conversations": turns("<image>", " ")}], max_length=56)
    for count, index in enumerate((0, 1), start=1):
        with pytest.warns(AdaptVisWarning, match=f"sample {index} .*: nothing is left to learn"):
            item = dataset[index]
        assert set(item["labels"].tolist()) == {-100}
        assert dataset.without_loss == count
    assert [(p.index, p.fatal) for p in check(dataset)] == [(0, False), (1, False)]


def test_plain_style_needs_one_caption_for_an_image(load: Load) -> None:
    long = {"image": "a.png", "conversations": turns("<image>", "a", "b", "c")}
    dataset = load([long, {"conversations": turns("x", "y")}], prompt_style="plain")
    for index in (0, 1):
        with pytest.raises(DataError, match=f"sample {index}: prompt_style 'plain' takes one"):
            dataset[index]
    assert [p.index for p in check(dataset)] == [0, 1]


def test_wrong_options_are_refused(load: Load) -> None:
    for options, message in (
        ({"prompt_style": "plane"}, "did you mean 'plain'"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"max_length": 0}, "max_length must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            load([GOOD], **options)
