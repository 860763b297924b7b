"""The HTML report as a file: what it shows, what it embeds, and that nothing breaks out of it."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from evaluation.hostile import ATTACK, hostile_report, left_and_right
from evaluation.made import record
from PIL import Image

from adaptvis.attention_map import AnswerKey, pack_attention_maps, read_attention_maps
from adaptvis.errors import ConfigError, DataError
from adaptvis.evaluation import Record
from adaptvis.evaluation.report import changed_answers, write_report
from adaptvis.evaluation.report.pictures import LONGEST_SIDE, data_uri
from adaptvis.evaluation.report.text import json_for_script, signed_points
from adaptvis.evaluation.summary import summarise


class Page(HTMLParser):
    """Tags, attributes, visible text and the embedded data of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.scripts: list[str] = []
        self._raw = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            self.scripts.append(data)
        elif not self._raw:
            self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(hostile_report(tmp_path_factory.mktemp("report")))


def test_hostile_texts_stay_texts(page: Page) -> None:
    # Two scripts of our own (data and program); pictures are made by the program.
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    shown = ATTACK.split("\u2028")[0]
    assert shown[:60] in page.text
    assert not {"\x00", "\x1b"} & set(page.text + "".join(v for _, v in page.attributes))
    assert page.data["examples"][0]["answers"][0]["text"].startswith(shown)
    # Values of attributes hold no tag, but for labels of charts, which are quoted.
    assert {n for n, v in page.attributes if "<script" in v} <= {"aria-label"}


def test_nothing_is_fetched(page: Page) -> None:
    addresses = [v for n, v in page.attributes if n in ("src", "href", "action", "data", "srcset")]
    assert all(address.startswith("#") for address in addresses)
    assert "@import" not in page.scripts[-1]
    (policy,) = [v for _, v in page.attributes if "default-src" in v]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_examples_say_what_changed(page: Page) -> None:
    examples = page.data["examples"]
    # 2 methods x 2 directions x 8, of 20 - 4 fixed and 12 - 4 broken
    assert len(examples) == 32
    assert {(e["direction"], e["of"]) for e in examples} == {
        ("wrong to right", 16),
        ("right to wrong", 8),
    }
    for example in examples:
        before, after = example["answers"]
        assert before["right"] is (example["direction"] == "right to wrong")
        assert after["right"] is not before["right"]
    # one picture, however many examples show it
    assert len(page.data["pictures"]) == 1
    content = base64.b64decode(page.data["pictures"][0].partition(",")[2])
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (40, 20)
        assert image.convert("RGB").getpixel((5, 5)) == pytest.approx((255, 0, 0), abs=3)


def test_overlays_hold_the_maps(page: Page) -> None:
    attention = page.data["examples"][0]["attention"]
    assert attention["boxes"] == [[0, 0, 5000, 10000], [5000, 0, 10000, 10000]]
    # mean over the layers, then the layers
    assert attention["unsteered"]["shares"] == pytest.approx([0.3, 0.4, 0.2])
    assert attention["steered"]["scales"] == pytest.approx([0.6, 0.8, 0.4])
    maps = np.frombuffer(base64.b64decode(attention["steered"]["maps"]), dtype=np.uint8)
    assert maps.reshape(3, 2).tolist() == [[0, 255]] * 3


def test_numbers_are_those_of_the_summary(tmp_path: Path) -> None:
    records = [record(i, correct=i < 20) for i in range(40)]
    records += [record(i, "x", correct=i < 30, alpha=2.0) for i in range(40)]
    text = Page(
        write_report(tmp_path, summarise(records), records, run={"seed": 7}, engines={})
    ).text
    words = re.sub(r"\s+", " ", text)
    assert "50.0 35.2\N{EN DASH}64.8" in words
    assert "+25.0" in words
    assert "0.0020" in words  # McNemar: 2 / 1024
    assert "reliable gain" in words
    assert "seed7" in words


def test_pictures_that_cannot_be_reopened_leave_a_note(tmp_path: Path) -> None:
    records = [record(0, correct=False), record(0, "x")]

    def gone(of: Record) -> tuple[Image.Image, ...]:
        raise DataError(f"image of {of.id} does not exist <b>")

    for opened, words in ((gone, "image of q0 does not exist <b>"), (None, "not at hand")):
        path = write_report(
            tmp_path,
            summarise(records),
            records,
            run={},
            engines={},
            open_pictures=opened,
            attention={AnswerKey("m", "t", "q0", "x"): left_and_right()},
        )
        (example,) = Page(path).data["examples"]
        assert words in example["note"]
        assert example["attention"] is None


def test_without_changes_there_is_nothing_to_browse(tmp_path: Path) -> None:
    records = [record(i, m) for m in ("baseline", "x") for i in range(3)]
    text = write_report(tmp_path, summarise(records), records, run={}, engines={}).read_text()
    assert "No method changed an answer" in text
    with pytest.raises(ConfigError, match="must not be negative"):
        write_report(tmp_path, summarise(records), records, run={}, engines={}, examples=-1)


def test_categories_take_turns() -> None:
    records = [record(i, correct=False, category="ab"[i > 90]) for i in range(100)]
    records += [record(i, "x", category="ab"[i > 90]) for i in range(100)]
    found = changed_answers(records, 4)
    assert [c.after.category for c in found] == list("abab")
    assert [c.after.id for c in found] == ["q0", "q91", "q1", "q92"]
    assert {c.of for c in found} == {100}
    strict = [record(0, strict=False), record(0, "x")]
    assert changed_answers(strict) == []
    assert len(changed_answers(strict, scoring="strict")) == 1


def test_pictures_are_small() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (900, 1200, 3), dtype=np.uint8)
    uri = data_uri(Image.fromarray(noise))
    assert uri.startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        assert image.size == (LONGEST_SIDE, LONGEST_SIDE * 3 // 4)
    assert data_uri(Image.new("RGBA", (30, 30))).startswith("data:image/png;base64,")


def test_json_cannot_end_its_script() -> None:
    text = json_for_script({"a": "</script><!--&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script><!--&\u2028"}


def test_differences_have_a_sign() -> None:
    assert [signed_points(v) for v in (0.0249, -0.1, 0.0004, -0.0004)] == [
        "+2.5",
        "\N{MINUS SIGN}10.0",
        "0.0",
        "0.0",
    ]


def test_attention_maps_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "attention.safetensors"
    assert read_attention_maps(path) == {}
    key = AnswerKey("m", "t", "q\n\u00e9", "x")
    path.write_bytes(pack_attention_maps({key: left_and_right()}))
    (found,) = read_attention_maps(path).items()
    assert found[0] == key
    for name in ("image", "boxes", "unsteered", "steered"):
        np.testing.assert_array_equal(getattr(found[1], name), getattr(left_and_right(), name))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match="does not hold attention maps"):
        read_attention_maps(path)
