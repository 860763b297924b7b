"""A user's own JSONL file: what is read, and what is refused with file and line."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adaptvis.errors import DataError
from adaptvis.tasks import get_task

GOOD = {"image": "red.png", "question": "Where?", "answer": "left"}


def write(folder: Path, *lines: dict[str, Any] | str) -> str:
    folder.mkdir(exist_ok=True)
    Image.new("RGBA", (8, 6), (255, 0, 0, 128)).save(folder / "red.png")
    path = folder / "mine.jsonl"
    path.write_text("\n".join(e if isinstance(e, str) else json.dumps(e) for e in lines) + "\n")
    return str(path)


def test_optional_fields_are_read(tmp_path: Path) -> None:
    full = {
        "images": ["red.png", "red.png"],
        "question": "Which?",
        "answers": ["left", "port"],
        "options": ["left", "right"],
        "category": "cups",
        "id": "q7",
        "object_count": 3,
    }
    first, second = get_task(write(tmp_path / "d", GOOD, "", full)).load()
    assert (first.id, first.category, first.gold) == ("1", "no category", ("left",))
    assert [(i.mode, i.size) for i in first.query().images] == [("RGB", (8, 6))]
    assert (second.id, second.category, second.object_count) == ("q7", "cups", 3)
    assert second.candidates == ("left", "right")
    assert len(second.query().images) == 2


def test_parts(tmp_path: Path) -> None:
    task = get_task(write(tmp_path / "d", GOOD, {**GOOD, "part": "validation"}))
    assert {s.category for s in task.load(part="all")} == {"all questions"}
    assert [s.id for s in task.load()] == ["1"]
    assert [s.id for s in task.load(part="validation")] == ["2"]
    only_test = get_task(write(tmp_path / "d", GOOD))
    with pytest.raises(DataError, match=r'no line with "part": "validation"'):
        only_test.load(part="validation")


def test_null_is_no_value(tmp_path: Path) -> None:
    optional = ("options", "category", "id", "part", "object_count", "answers")
    line = GOOD | dict.fromkeys(optional)
    (sample,) = get_task(write(tmp_path / "d", line)).load()
    assert (sample.id, sample.category, sample.candidates) == ("1", "all questions", ())


def test_answer_and_options_are_compared_as_they_are_graded(tmp_path: Path) -> None:
    line = GOOD | {"answer": " H\u00f6her. ", "options": ["ho\u0308her", "the lower"]}
    task = get_task(write(tmp_path / "d", line, GOOD | {"options": ["The Left", "right"]}))
    first, second = task.load()
    assert task.grade(first, "h\u00f6her").strict
    assert task.grade(second, "left").strict


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not valid JSON"),
        (json.dumps(GOOD)[:-1] + ', "answer": "right"}', "the key 'answer' is given twice"),
        (json.dumps(GOOD)[:-1] + ', "id": "\\udc00"}', "is half of a character"),
        ({**GOOD, "answer": "C", "options": ["C", "C++"]}, "'C' and 'C++' have the same words"),
        ("[1]", "expected an object"),
        ({**GOOD, "anwser": "x"}, "did you mean 'answer'?"),
        ({"image": "red.png", "question": "Where?"}, "answer must be"),
        ({**GOOD, "question": ""}, "question must be"),
        ({"image": "red.png", "question": "Where?", "answers": []}, "answers must be"),
        ({**GOOD, "answers": ["port"]}, "answer or answers, not both"),
        ({**GOOD, "images": ["red.png"]}, "image or images, not both"),
        ({**GOOD, "category": ["cups"]}, "category must be a text or a number"),
        ({**GOOD, "id": {"n": 1}}, "id must be a text or a number"),
        ({**GOOD, "object_count": True}, "object_count"),
        ({**GOOD, "image": "https://example.com/1.png"}, "is an address or the picture itself"),
        ({**GOOD, "image": "file:///tmp/1.png"}, "is an address or the picture itself"),
        ({**GOOD, "image": "data:image/png;base64," + 9000 * "A"}, "save it as a file"),
        ({**GOOD, "options": ["up", "down"]}, "'left' is not among the options"),
        ({**GOOD, "part": "train"}, "part must be"),
        ({**GOOD, "object_count": "3"}, "object_count"),
        ({**GOOD, "image": "../secret.png"}, "outside the folder"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: dict[str, Any] | str, message: str) -> None:
    path = write(tmp_path / "d", GOOD, bad)
    with pytest.raises(DataError) as caught:
        get_task(path).load()
    assert_names_line_2(caught.value, path, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone.png", "gone.png does not exist"),
        ("broken.png", "broken.png cannot be read"),
        ("text.png", "not an image"),
        ("link.png", "outside the folder"),
    ],
)
def test_a_bad_image_is_named_when_its_question_is_asked(
    tmp_path: Path, name: str, message: str
) -> None:
    folder = tmp_path / "d"
    path = write(folder, GOOD, {**GOOD, "image": name})
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    whole = (folder / "red.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("hello")
    good, bad = get_task(path).load()
    assert good.query().images
    with pytest.raises(DataError) as caught:
        bad.query()
    assert_names_line_2(caught.value, path, message)


def assert_names_line_2(error: DataError, path: str, message: str) -> None:
    text = str(error)
    assert text.startswith(f"{path}, line 2: ")
    assert message in text
    assert "\n" not in text
    assert len(text) < len(path) + 250


def test_an_absolute_path_inside_the_folder_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "d", {**GOOD, "image": str(tmp_path / "d/red.png")})
    assert get_task(path).load()[0].images()[0].size == (8, 6)


def test_an_absolute_path_outside_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    path = write(tmp_path / "d", {**GOOD, "image": str(tmp_path / "secret.png")})
    with pytest.raises(DataError, match="outside the folder"):
        get_task(path).load()


def test_empty_and_binary_files(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    with pytest.raises(DataError, match="no questions"):
        get_task(str(empty)).load()
    empty.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        get_task(str(empty)).load()


def test_two_lines_with_one_id(tmp_path: Path) -> None:
    path = write(tmp_path / "d", {**GOOD, "id": "a"}, {**GOOD, "id": "a"})
    with pytest.raises(DataError, match="2 questions with the id 'a'"):
        get_task(path).load()


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("<image>\nWhere is the cup?", "Where is the cup?"),
        ("Where is the cup?\n<image>", "Where is the cup?"),
        ("  <image> Where is  the cup? ", "Where is  the cup? "),
        (" Where is the image?\n", " Where is the image?\n"),
        ("Is <img> or <image 1> a mark?", "Is <img> or <image 1> a mark?"),
    ],
)
def test_the_mark_of_llavas_files_is_left_out(tmp_path: Path, question: str, asked: str) -> None:
    (sample,) = get_task(write(tmp_path / "d", {**GOOD, "question": question})).load()
    assert sample.prompt == asked


def test_there_is_one_mark_for_each_picture(tmp_path: Path) -> None:
    two = {"images": ["red.png", "red.png"], "answer": "left"}
    path = write(tmp_path / "d", two | {"question": "<image>\n<image>\nWhich is red?<image>"})
    with pytest.raises(DataError, match=r"line 1: .* <image> \(3 such marks, 2 pictures\)"):
        get_task(path).load()
    for question in (
        "<image>\n<image>\nWhich?",
        "<image>\nWhich?\n<image>",
        "Which? <image><image>",
    ):
        (sample,) = get_task(write(tmp_path / "d", two | {"question": question})).load()
        assert sample.prompt == "Which?"


@pytest.mark.parametrize(
    "question",
    [
        *("<image>\n<image>\nWhere?", "Is the cup in <image> red?", "<image>", "<video>\nWhere?"),
        *("<image>\nWhat is <image>?", "<|vision_start|><|image_pad|><|vision_end|>Where?"),
        *("<image_soft_token>Where?", "<start_of_image> Where?", "<IMG_CONTEXT>\nWhere?"),
    ],
)
def test_any_other_mark_is_refused_with_file_and_line(tmp_path: Path, question: str) -> None:
    path = write(tmp_path / "d", GOOD, {**GOOD, "question": question})
    with pytest.raises(DataError) as caught:
        get_task(path).load()
    assert_names_line_2(caught.value, path, "the question holds <")


@pytest.mark.parametrize("field", ["question", "answer", "category", "id"])
def test_half_a_character_is_refused_before_it_spoils_the_records(
    tmp_path: Path, field: str
) -> None:
    path = write(tmp_path / "d", GOOD, json.dumps({**GOOD, field: "a \ud83d b"}))
    with pytest.raises(DataError) as caught:
        get_task(path).load()
    assert_names_line_2(caught.value, path, "is half of a character")
    whole = json.dumps({**GOOD, "question": "a \U0001f600 b"})
    assert get_task(write(tmp_path / "d", whole)).load()[0].prompt == "a \U0001f600 b"
