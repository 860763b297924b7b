"""Files and pictures that others made: what is refused, and that the message says where."""

import contextlib
import io
import json
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from adaptvis.errors import DataError
from adaptvis.tasks.files import read_csv, read_json, read_jsonl
from adaptvis.tasks.images import decode_image, inside, open_image, pictures_in


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1}\n{"a": \n', "line 2: not valid JSON"),
        (b'{"a": 1}\n\n[3]\n', "line 3: expected an object with fields, got list"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"a": ' + b"[" * 100_000 + b"}", "line 1: not valid JSON (nested too deeply)"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 1: not valid JSON"),
        (b'{"a": 1, "a": 2}\n', "line 1: not valid JSON (the key 'a' is given twice)"),
        (
            b'{"a": 1}\n{"a": "x\\ud83d"}',
            r"line 2: not valid JSON ('\ud83d' is half of a character",
        ),
    ],
)
def test_bad_jsonl(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_jsonl(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes('\ufeff{"a": "x\u2028y\u0085z"}\r\n{"a": "2"}'.encode())
    first, second = read_jsonl(path)
    assert first.text("a") == "x\u2028y\u0085z"
    assert second.where == f"{path}, line 2"


def test_bad_json_gives_its_line(tmp_path: Path) -> None:
    path = tmp_path / "q.json"
    path.write_text('{\n "a": 1,\n "b" 2}')
    with pytest.raises(DataError, match=r"q\.json, line 3: not valid JSON"):
        read_json(path)
    with pytest.raises(DataError, match="does not exist"):
        read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1\n", "line 2: expected 2 cells, got 1"),
        ("a,b\n1,2,3\n", "line 2: expected 2 cells, got 3"),
        ('a,b\n1,"2\n', "not valid CSV"),
        ("a,c\n1,2\n", "line 1: the field 'b' is missing"),
        ("", "line 1: the field 'a' is missing"),
    ],
)
def test_bad_csv(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "q.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_csv(path, ("a", "b"))
    assert message in str(caught.value)


def test_csv_cells_may_hold_commas_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text('\ufeffa,b\n"x, y","1\n2"\n\n3,4\n', encoding="utf-8")
    first, second = read_csv(path, ("a", "b"))
    assert (first.text("a"), first.text("b"), second.whole("b")) == ("x, y", "1\n2", 4)
    assert second.where.endswith("line 5")


SEPARATORS = "\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e"


@pytest.mark.parametrize("quote", ['"', ""])
def test_csv_cells_may_hold_what_other_formats_take_for_line_ends(
    tmp_path: Path, quote: str
) -> None:
    path = tmp_path / "q.csv"
    cell = f"{quote}x{SEPARATORS}y{quote}"
    path.write_bytes(f"a,b\r\n1,{cell}\r\n2,z\r\n".encode())
    first, second = read_csv(path, ("a", "b"))
    assert (first.value("b"), second.value("b")) == (f"x{SEPARATORS}y", "z")
    assert [e.where for e in (first, second)] == [f"{path}, line 2", f"{path}, line 3"]


def test_csv_with_bare_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_bytes(b'a,b\r1,"x\ry"\r2,z\r')
    assert [e.value("b") for e in read_csv(path, ("a", "b"))] == ["x\ry", "z"]


def test_jsonl_keeps_every_separator_inside_a_text(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    # JSON has the ASCII ones escaped, and may hold the others as they are.
    path.write_text(json.dumps({"a": SEPARATORS}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [e.value("a") for e in read_jsonl(path)] == [SEPARATORS]


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])  # beyond Pillow's warning, beyond its error
def test_decompression_bombs_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(_png_header(side, side))
    with pytest.raises(DataError, match=r"bomb\.png is too large"):
        open_image(path)


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    Image.new("RGB", (64, 64), (9, 9, 200)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"^q, line 3: image .*half\.jpg cannot be read"):
        open_image(path, "q, line 3")
    path.write_text("hello")
    with pytest.raises(DataError, match=r"^The image .*half\.jpg cannot be read \(not an image"):
        open_image(path)
    with pytest.raises(DataError, match="does not exist"):
        open_image(tmp_path / "none.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "position", "value", "raised"),
    [("DDS", 80, 13, NotImplementedError), ("TIFF", 72, 5, TypeError)],
)
def test_decoders_that_fail_in_their_own_way(
    kind: str, position: int, value: int, raised: type[Exception]
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (1, 2, 3)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    content[position] = value
    with pytest.raises(raised), Image.open(io.BytesIO(content)) as image:
        image.convert("RGB")
    with pytest.raises(DataError, match=r"^The picture cannot be read"):
        decode_image(bytes(content), "The picture")


def test_too_little_memory_is_no_broken_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(image: Image.Image, mode: str) -> Image.Image:
        raise MemoryError

    buffer = io.BytesIO()
    Image.new("L", (8, 6)).save(buffer, "PNG")
    monkeypatch.setattr(Image.Image, "convert", convert)
    with pytest.raises(MemoryError):
        decode_image(buffer.getvalue(), "x")


STARTS = (b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@given(st.sampled_from(STARTS), st.binary(max_size=64))
def test_any_bytes_are_a_picture_or_an_error_of_ours(start: bytes, content: bytes) -> None:
    with contextlib.suppress(DataError):
        assert decode_image(start + content, "x").mode == "RGB"


def test_paths_stay_inside_their_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "deep").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path)
    assert inside(root, "deep/../a.png", "q") == (root / "a.png").resolve()
    for name in ("../a.png", "/etc/passwd", "out/a.png", "deep/../../root2/a.png"):
        with pytest.raises(DataError, match=r"q: image .* lies outside the folder"):
            inside(root, name, "q")
        with pytest.raises(DataError, match=r"q: image .* lies outside the folder"):
            pictures_in(root, (name,), "q")()
    for name in ("../a.png", "/etc/passwd", "deep/../../root2/a.png"):
        with pytest.raises(DataError, match="outside the folder"):
            pictures_in(root, (name,), "q")  # refused before anything is opened
    with pytest.raises(DataError, match="is not a file name"):
        inside(root, "a\0b", "q")
