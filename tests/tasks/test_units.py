"""Pairs and sets: what keeps them whole, and what is said where they are torn."""

from collections import Counter
from pathlib import Path

import pytest
from tasks.published import MMVP_ROWS, scores, write_csv, write_whatsup

from adaptvis.evaluation.shards import shard_of_each
from adaptvis.tasks import Part, Sample, Task, get_task, units_of

PERFECT = {"pair_accuracy": 1.0, "set_accuracy": 1.0}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Controlled A in its published size: 103 sets of four."""
    folder = tmp_path_factory.mktemp("whatsup")
    return get_task("controlled_a", data=write_whatsup(folder, groups=103, pictures=False))


def perfect(task: Task, samples: list[Sample]) -> dict[str, float]:
    return scores(task, samples, [sample.gold[0] for sample in samples])


def test_units_by_hand() -> None:
    assert units_of(["a", "b", "a", "c"]) == [0, 1, 0, 2]
    tags = [{"pair": "1"}, {"pair": "1"}, {"pair": "2"}, {"pair": "3"}, {}]
    assert units_of(list("abcde"), tags, "pair") == [0, 0, 1, 2, 3]
    # A shared picture links two pairs.
    assert units_of(list("abbde"), tags, "pair") == [0, 0, 0, 1, 2]
    # A picture and a pair of the same name have nothing to do with each other.
    assert units_of(["x", "1"], [{"pair": "1"}, {"pair": "2"}], "pair") == [0, 1]


@pytest.mark.parametrize(("limit", "questions"), [(100, 100), (30, 28), (5, 4), (4, 4)])
def test_a_limit_keeps_sets_whole(sets: Task, limit: int, questions: int) -> None:
    samples = sets.load(limit, "all")
    assert len(samples) == questions
    assert perfect(sets, samples) == PERFECT
    assert sets.torn(samples) == 0


def test_a_limit_below_one_set_tears_it(sets: Task) -> None:
    samples = sets.load(3, "all")
    assert len(samples) == 3
    assert sets.torn(samples) == 3


@pytest.mark.parametrize("shards", [2, 3])
def test_shards_keep_sets_whole(sets: Task, shards: int) -> None:
    samples = sets.load(part="all")
    numbers = shard_of_each(samples, shards, sets.joined_by)
    for shard in range(1, shards + 1):
        own = [s for s, number in zip(samples, numbers, strict=True) if number == shard]
        assert perfect(sets, own) == PERFECT


def test_the_published_split_tears_sets_and_says_so(sets: Task) -> None:
    samples = sets.load(part="test")
    here = Counter(s.tags["group"] for s in samples)
    torn = sum(count for count in here.values() if count < 4)
    assert len(samples) == 330
    assert sets.torn(samples) == torn > 0
    assert perfect(sets, samples)["set_accuracy"] == (330 - torn) / 330
    assert sets.torn(sets.load(part="all")) == 0
    # Of some of a part's questions, what the limit left out is a whole set of that part.
    assert sets.torn(sets.load(100, "test")) > 0


def test_pairs_of_mmvp(tmp_path: Path) -> None:
    rows = [{**MMVP_ROWS[0], "Index": i} for i in range(1, 301)]
    write_csv(tmp_path / "Questions.csv", rows)
    (tmp_path / "MMVP Images").mkdir()
    task = get_task("mmvp", data=tmp_path)
    parts: tuple[Part, ...] = ("validation", "test", "all")
    assert [task.torn(task.load(61, part)) for part in parts] == [0, 0, 0]
    assert len(task.load(61, "all")) == 60
    assert task.torn(task.load(part="all")[:9]) == 1
    assert get_task("2ds").torn([]) == 0
