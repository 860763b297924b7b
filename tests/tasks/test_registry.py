"""Tasks by name and by path, and what a limit selects."""

from collections import Counter
from pathlib import Path

import pytest

from adaptvis.errors import ConfigError, DataError
from adaptvis.tasks import Sample, get_task


@pytest.fixture(scope="module")
def two_ds() -> list[Sample]:
    return get_task("2ds").load()


def test_the_default_task_has_3000_questions_in_six_equal_categories(two_ds: list[Sample]) -> None:
    assert len({s.image_id for s in two_ds}) == 500
    counts = Counter(s.category for s in two_ds)
    assert len(counts) == 6
    assert set(counts.values()) == {500}
    assert {s.object_count for s in two_ds} == {2, 3, 4, 5, 6}
    query = two_ds[0].query()
    assert query.prompt == two_ds[0].prompt
    assert [image.size for image in query.images] == [(56, 56)]


def test_every_gold_answer_is_right_by_every_rule(two_ds: list[Sample]) -> None:
    for sample in two_ds:
        grade = get_task("2ds").grade(sample, sample.gold[0])
        assert grade.correct
        assert grade.strict
        assert grade.in_candidates


def test_prior_tasks_agree_with_the_prior_as_they_say() -> None:
    balanced = get_task("2ds-prior-balanced").load()
    right = Counter(s.category for s in balanced if s.agrees_with_prior)
    assert right == {"absolute where": 125, "relative where": 125, "relative yes/no": 250}
    conflicting = get_task("2ds-prior-conflicting").load(limit=99)
    assert {s.agrees_with_prior for s in conflicting} == {False}


def test_validation_and_test_share_no_picture(two_ds: list[Sample]) -> None:
    validation = get_task("2ds").load(part="validation")
    pictures = [
        {s.query().images[0].tobytes() for s in samples[::6]} for samples in (validation, two_ds)
    ]
    assert not pictures[0] & pictures[1]


def test_a_limit_takes_whole_images_of_all_kinds_and_is_repeatable() -> None:
    task = get_task("2ds")
    some = task.load(limit=60)
    assert [s.id for s in some] == [s.id for s in task.load(limit=60)]
    assert set(Counter(s.image_id for s in some).values()) == {6}
    assert len({s.object_count for s in some}) > 2
    assert len(task.load(limit=7)) == 7


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        get_task("2ds").load(limit=limit)


def test_an_unknown_task_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"did you mean '2ds-prior-balanced'\?"):
        get_task("2ds-prior-ballanced")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.jsonl does not exist"):
        get_task(str(tmp_path / "nothing.jsonl"))


def test_2ds_from_parquet_asks_the_same_questions(tmp_path: Path) -> None:
    from adaptvis.data.two_ds import generate_2ds, write_parquet

    path = tmp_path / "mine.parquet"
    write_parquet(generate_2ds(images_per_count=2), path)
    task = get_task(str(path))
    assert task.name == "mine"
    assert len(task.load()) == 60
    with pytest.raises(ConfigError, match="without a validation part"):
        task.load(part="validation")
    path.write_bytes(b"PAR1 no parquet")
    with pytest.raises(DataError):
        get_task(str(path)).load()
