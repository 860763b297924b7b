"""WhatsUp in AdaptVis's protocol: prompts, substring scoring, pairs and sets, splits."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tasks.published import PROMPT, picture, scores, write_json, write_jsonl, write_whatsup

from adaptvis.errors import DataError
from adaptvis.tasks import get_task
from adaptvis.tasks.whatsup import chat_question, grade_whatsup

# What the authors' files hold, irregular lines included.
IRREGULAR = (
    "<image>\nUSER: Where is the dog in  relation to the roof?\nAnswer with left, right, front, "
    "behind, above or below.\n\nASSISTANT:",
    "<image>\nUSER: Where is the man in relation to the woman?\nAnswer with left, right, front, "
    "behind, top, or bottom..\nOption A photo of a man to the right of a woman.\nASSISTANT:",
)


def test_questions_of_controlled_a(tmp_path: Path) -> None:
    task = get_task("controlled_a", data=write_whatsup(tmp_path))
    left, right, on, under = task.load(part="all")[:4]
    assert left.raw_prompt == PROMPT.format("beer mug0", "table", "left, right, on or under")
    assert left.prompt == (
        "Where is the beer mug0 in relation to the table? Answer with left, right, on or under."
    )
    assert [s.gold for s in (left, right, on, under)] == [
        ("Left",),
        ("Right",),
        ("On",),
        ("Under",),
    ]
    assert on.tags == {"group": "beer-mug0 table", "relation": "on", "group_size": "4"}
    assert on.category == "on"
    assert on.candidates == ("left", "right", "on", "under")
    query = on.query("raw")
    assert (query.prompt, query.raw) == (on.raw_prompt, True)
    assert [image.size for image in query.images] == [(8, 6)]


@pytest.mark.parametrize(
    ("gold", "text", "correct", "strict"),
    [
        ("On", "On", True, True),
        ("On", "The mug is on the table.", True, True),
        ("On", "In front of the table", False, False),  # the rule's one exception
        ("On", "On the phone in front", False, True),  # which takes a right answer with it
        ("On", "A phone", True, False),
        ("On", "none of these", True, False),
        ("On", "bottom", False, False),
        ("Left", "left or right", True, False),
        ("Left", "To the left of it", True, True),
        ("Left", "It is on the left", True, False),  # mentions two options of this task
        ("Under", "underneath", True, False),
        ("Under", "", False, False),
    ],
)
def test_substring_rule_and_strict_rule(
    tmp_path: Path, gold: str, text: str, correct: bool, strict: bool
) -> None:
    task = get_task("controlled_a", data=write_whatsup(tmp_path, groups=1, pictures=False))
    sample = next(s for s in task.load(part="all") if s.gold == (gold,))
    grade = task.grade(sample, text)
    assert (grade.correct, grade.strict) == (correct, strict)


@given(st.text())
def test_the_reference_rule_on_any_text(text: str) -> None:
    from adaptvis.tasks import Sample

    for gold in ("Left", "On"):
        sample = Sample("1", "?", tuple, (gold,), "", "", ("left", "on"))
        # The published lines, as they stand.
        expected = bool(gold in text or gold.lower() in text.lower())
        if gold.lower() == "on" and "front" in text.strip().lower():
            expected = False
        assert grade_whatsup(sample, text).correct == expected


def test_pairs_and_sets_by_hand(tmp_path: Path) -> None:
    """Three sets. The first is all right: 2 pairs, 1 set. In the second "under" is wrong: 1 pair.

    In the third left and on are right: no pair. 3 of 6 pairs and 1 of 3 sets.
    """
    task = get_task("controlled_a", data=write_whatsup(tmp_path, groups=3, pictures=False))
    samples = task.load(part="all")
    said = ["left", "right", "on", "under", "left", "right", "on", "on"]
    said += ["left", "left", "on", "left"]
    assert scores(task, samples, said) == {"pair_accuracy": 3 / 6, "set_accuracy": 1 / 3}
    # As published, a broken pair stays in the denominator: 1 pair of 5 / 2.
    assert scores(task, samples[:5], [*said[:3], "on", "left"]) == {
        "pair_accuracy": 1 / 2.5,
        "set_accuracy": 0.0,
    }


def test_controlled_b_pairs_front_with_behind(tmp_path: Path) -> None:
    task = get_task("controlled_b", data=write_whatsup(tmp_path, "B", pictures=False))
    samples = task.load(part="all")
    assert [s.category for s in samples[:4]] == ["left", "right", "front", "behind"]
    assert samples[2].tags["relation"] == "in-front"
    said = ["right", "right", "In front", "behind"] + ["left"] * 4
    assert scores(task, samples, said) == {"pair_accuracy": 1 / 4, "set_accuracy": 0.0}


def test_irregular_lines_are_kept_byte_for_byte(tmp_path: Path) -> None:
    write_json(tmp_path / "data/vg_qa_two_obj.json", [[7, "right", "wrong"], [2310, "a", "b"]])
    prompts = tmp_path / "prompts/VG_QA_two_obj_with_answer_six_options.jsonl"
    write_jsonl(prompts, ({"id": 0, "question": q, "answer": ["Above"]} for q in IRREGULAR))
    for name in ("7", "2310"):
        picture(tmp_path / f"data/vg_images/{name}.jpg")
    samples = get_task("vg_two", data=tmp_path).load(part="all")
    assert tuple(s.raw_prompt for s in samples) == IRREGULAR
    assert samples[0].prompt.endswith(
        "in  relation to the roof?\nAnswer with left, right, front, behind, above or below."
    )
    assert samples[1].prompt.endswith("of a woman.")
    # What each question offers; "above" is right and not offered by the second.
    assert samples[0].candidates == ("left", "right", "front", "behind", "above", "below")
    assert samples[1].candidates == ("left", "right", "front", "behind", "top", "bottom", "above")
    assert [len(s.images()) for s in samples] == [1, 1]


def test_a_question_of_two_options_has_two_candidates(tmp_path: Path) -> None:
    """As lines 201 and 1003 of the authors' file."""
    question = "<image>\nUSER: Where is the net? Answer with behind or front.\nASSISTANT:"
    write_json(tmp_path / "data/vg_qa_one_obj.json", [[7, "right", "wrong"]])
    prompts = tmp_path / "prompts/VG_QA_one_obj_with_answer_six_options.jsonl"
    write_jsonl(prompts, [{"id": 0, "question": question, "answer": ["Behind"]}])
    (tmp_path / "data/vg_images").mkdir()
    task = get_task("vg_one", data=tmp_path)
    (sample,) = task.load(part="all")
    assert set(sample.candidates) == {"front", "behind"}
    assert task.grade(sample, "Behind, at the left").strict


def test_coco_images_have_twelve_digits(tmp_path: Path) -> None:
    write_json(tmp_path / "data/coco_qa_one_obj.json", [[37777, "right", "wrong"]])
    line = {"id": 0, "question": "<image>\nUSER: Where?\nASSISTANT:", "answer": ["Top"]}
    write_jsonl(tmp_path / "prompts/COCO_QA_one_obj_with_answer_four_options.jsonl", [line])
    picture(tmp_path / "data/val2017/000000037777.jpg")
    task = get_task("coco_one", data=tmp_path)
    (sample,) = task.load(part="all")
    assert sample.images()[0].size == (8, 6)
    assert sample.category == "top"
    assert task.metrics is None


@given(st.text())
def test_a_question_survives_the_removal_of_its_frame(text: str) -> None:
    assert chat_question(f"<image>\nUSER: x{text}x\nASSISTANT:") == f"x{text}x"


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("controlled_a", (82, 330)),
        ("controlled_b", (81, 327)),
        ("coco_one", (449, 1798)),
        ("coco_two", (88, 352)),
        ("vg_one", (232, 928)),
        ("vg_two", (58, 233)),
    ],
)
def test_split_sizes_of_the_published_files(
    tmp_path: Path, name: str, sizes: tuple[int, int]
) -> None:
    count = sum(sizes)
    if name.startswith("controlled"):
        write_whatsup(tmp_path, name[-1].upper(), groups=count // 4, pictures=False)
    else:
        kind, number = name.split("_")
        options = "six" if kind == "vg" else "four"
        stem = f"{kind.upper()}_QA_{number}_obj_with_answer_{options}_options"
        write_json(tmp_path / f"data/{kind}_qa_{number}_obj.json", [[1, "a", "b"]] * count)
        line = {"id": 0, "question": "Where?", "answer": ["Left"]}
        write_jsonl(tmp_path / f"prompts/{stem}.jsonl", [line] * count)
        (tmp_path / ("data/vg_images" if kind == "vg" else "data/val2017")).mkdir(parents=True)
    task = get_task(name, data=tmp_path)
    parts = [task.load(part=part) for part in ("validation", "test")]
    assert tuple(map(len, parts)) == sizes
    ids = {s.id for samples in parts for s in samples}
    assert len(ids) == count == len(task.load(part="all"))


def test_a_grouped_split_keeps_sets_whole(tmp_path: Path) -> None:
    data = write_whatsup(tmp_path, groups=103, pictures=False)
    task = get_task("controlled_a", data=data, split="grouped")
    validation, test = (task.load(part=part) for part in ("validation", "test"))
    assert (len(validation), len(test)) == (80, 332)
    assert not {s.tags["group"] for s in validation} & {s.tags["group"] for s in test}
    said = [s.gold[0] for s in test]
    assert scores(task, test, said) == {"pair_accuracy": 1.0, "set_accuracy": 1.0}
    assert task.source != get_task("controlled_a", data=data).source


def test_files_that_do_not_belong_together(tmp_path: Path) -> None:
    write_whatsup(tmp_path, pictures=False)
    path = tmp_path / "prompts/Controlled_Images_A_with_answer_four_options.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(DataError, match=r"7 questions and .* 8 items"):
        get_task("controlled_a", data=tmp_path).load()


def test_an_image_outside_the_folder_and_a_missing_one(tmp_path: Path) -> None:
    root = write_whatsup(tmp_path / "whatsup", groups=1)
    annotation = root / "data/controlled_images_dataset.json"
    text = annotation.read_text()
    (root / "data/controlled_images/beer-mug0_on_table.jpeg").unlink()
    samples = get_task("controlled_a", data=root).load(part="all")
    with pytest.raises(DataError, match=r"item 2: image .*beer-mug0_on_table\.jpeg does not exist"):
        samples[2].images()
    annotation.write_text(text.replace("data/controlled_images/beer-mug0_on", "../a_on"))
    with pytest.raises(DataError, match=r"item 2: image .* lies outside the folder"):
        get_task("controlled_a", data=root).load()
