"""2DS: published counts, determinism, disjoint splits, balance, parquet round trip."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adaptvis.data import Scene, generate_2ds, read_parquet, two_ds_samples, write_parquet
from adaptvis.data.questions import Question
from adaptvis.data.two_ds import Entry
from adaptvis.errors import DataError


@pytest.fixture(scope="module")
def benchmark() -> list[Entry]:
    return generate_2ds("test", seed=0)


def test_published_counts(benchmark: list[Entry]) -> None:
    assert len(benchmark) == 500
    assert set(Counter(e.test_category for e in benchmark).values()) == {100}
    categories = Counter(q.category for e in benchmark for q in e.questions)
    assert len(categories) == 6
    assert set(categories.values()) == {500}
    assert all(len(e.objects) == e.object_count == int(e.test_category[0]) for e in benchmark)


def test_one_set_of_objects_per_meta_category(benchmark: list[Entry]) -> None:
    for name in {e.test_category for e in benchmark}:
        sets = {
            frozenset((o.color, o.shape) for o in e.objects)
            for e in benchmark
            if e.test_category == name
        }
        assert len(sets) == 1


def test_answers_are_true_and_balanced(
    benchmark: list[Entry], check_answer: Callable[[Scene, Question], None]
) -> None:
    for entry in benchmark:
        for question in entry.questions:
            check_answer(Scene(entry.objects), question)
    answers = Counter(q.answer for e in benchmark for q in e.questions if q.kind == "yes_no")
    assert abs(answers["yes"] - answers["no"]) <= 15
    for relative in (False, True):
        where = Counter(
            q.answer
            for e in benchmark
            for q in e.questions
            if q.kind == "where" and ("relation" in q.text) is relative
        )
        assert len(where) == 4
        assert max(where.values()) <= 1.15 * min(where.values())


def test_same_seed_same_bytes_and_seeds_differ() -> None:
    assert generate_2ds("test", 3, 2) == generate_2ds("test", 3, 2)
    assert generate_2ds("test", 3, 2) != generate_2ds("test", 4, 2)


def test_splits_are_disjoint() -> None:
    seen = [
        {Scene(e.objects).signature() for s in (0, 1) for e in generate_2ds(part, s, 8)}
        for part in ("train", "validation", "test")
    ]
    assert not (seen[0] & seen[1])
    assert not (seen[0] & seen[2])
    assert not (seen[1] & seen[2])


def test_parquet_round_trip_is_exact(tmp_path: Path) -> None:
    entries = generate_2ds("test", 1, 3)
    write_parquet(entries, tmp_path / "a.parquet")
    assert read_parquet(tmp_path / "a.parquet") == entries
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == [
        "image_filename",
        "qa_pairs",
        "entry_id",
        "test_category",
        "objects",
    ]
    assert set(table["qa_pairs"][0].as_py()[0]) == {"question", "answer", "qa_category"}


def test_foreign_object_descriptions_are_left_out(tmp_path: Path) -> None:
    entry = generate_2ds("test", 1, 1)[0]
    row = {
        "image_filename": {"bytes": entry.image_png, "path": "0.png"},
        "qa_pairs": [{"question": "Is it?", "answer": "Yes", "qa_category": "Color relative"}],
        "entry_id": 7,
        "test_category": "3 objects",
        "objects": ["red circle", "blue square", "green cross"],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "b.parquet")
    (read,) = read_parquet(tmp_path / "b.parquet")
    assert (read.objects, read.object_count, read.entry_id) == ((), 3, 7)
    assert read.questions[0].candidates == ("yes", "no")


def test_bad_files_and_arguments(tmp_path: Path) -> None:
    (tmp_path / "c.parquet").write_text("nothing")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "d.parquet")
    for name in ("missing", "c", "d"):
        with pytest.raises(DataError, match=name):
            read_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="dev"):
        generate_2ds("dev")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least 1"):
        generate_2ds("test", 0, 0)


def test_samples_carry_everything() -> None:
    samples = two_ds_samples("validation", 0, 2)
    assert len(samples) == 60
    assert len({s.id for s in samples}) == 60
    assert len({s.image_id for s in samples}) == 10
    assert all(s.answer in s.candidates and s.agrees is None for s in samples)
    assert all(s.image.mode == "RGB" for s in samples)
