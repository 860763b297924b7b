"""Finding samples in files of any layout, without holding them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptvis.errors import DataError
from adaptvis.training.llava.data import index as index_module
from adaptvis.training.llava.data.index import index_samples

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=8,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=6), VALUES, max_size=4), min_size=1, max_size=6)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    samples=OBJECTS,
    indent=st.sampled_from([None, 1, 4]),
    ascii_only=st.booleans(),
    lines=st.booleans(),
    mark=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_every_sample_is_read_back_from_any_layout(
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[Any],
    indent: int | None,
    ascii_only: bool,
    lines: bool,
    mark: bool,
    chunk: int,
) -> None:
    if lines:
        text = "\n".join(json.dumps(s, ensure_ascii=ascii_only) for s in samples) + "\n"
    else:
        text = json.dumps(samples, indent=indent, ensure_ascii=ascii_only)
    path = tmp_path_factory.mktemp("index") / "data.json"
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode("utf-8", "surrogatepass"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "CHUNK", chunk)
        index = index_samples(path)
    assert [index.read(i) for i in range(len(index))] == samples


def test_limit_stops_reading(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"a": 1}, {"a": 2}, this is not JSON')
    index = index_samples(path, limit=2)
    assert [index.read(i) for i in range(len(index))] == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n ", "is empty"),
        (b"[]", "has no samples"),
        (b'[\n{"a": 1},\n{"a": }\n]', r"line 3 \(byte 18\) is not JSON"),
        (b'{"a": 1}\n{"a": 2}\noops\n', r"line 3 \(byte 18\) is not JSON"),
        (b'[{"a": 1}\n{"a": 2}]', "line 2 .*a comma or the end of the array is missing"),
        (b'[{"a": 1},]', "a comma before the end of the array"),
        (b'[{"a": 1}', "line 1 .* end of the array is missing"),
        (b'[{"a": 1}] more', "text after the end of the array"),
        (b'[{"a": "unfinished', "line 1 .* not JSON"),
    ],
)
def test_broken_files_are_named_with_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        index_samples(path)
    assert str(caught.value).startswith(str(path))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        index_samples(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read"):
        index_samples(tmp_path)


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b'[{"a": "x"}, {"a": "caf\xe9"}]')
    index = index_samples(path)
    assert index.read(0) == {"a": "x"}
    with pytest.raises(DataError, match="sample 1: the text is not UTF-8 at byte 23"):
        index.read(1)


def test_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"a": 1}, {"a": 2}]')
    index = index_samples(path)
    path.write_text('[{"a"')
    with pytest.raises(DataError, match="has changed"):
        index.read(1)
