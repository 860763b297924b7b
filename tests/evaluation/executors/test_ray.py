"""A real local Ray cluster of two workers: the records of a local run, even where a worker dies."""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from evaluation import scripted
from evaluation.scripted import ScriptedEngine, load, plan

from adaptvis.config import SteeringConfig
from adaptvis.engine import Answer, Query
from adaptvis.errors import AdaptVisError, ConfigError
from adaptvis.evaluation import evaluate, read_records
from adaptvis.evaluation.asking import Request
from adaptvis.evaluation.executors.ray import RayExecutor

ray = pytest.importorskip("ray")


class Killing(ScriptedEngine):
    """Kills its own process at one question, as long as fewer than `deaths` have died of it."""

    def __init__(self, folder: Path, deaths: int) -> None:
        super().__init__()
        self.folder, self.deaths = folder, deaths

    def answer(
        self,
        queries: Sequence[Query],
        configs: Sequence[SteeringConfig | None],
        *,
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        died = len(list(self.folder.iterdir()))
        if died < self.deaths and any(q.prompt == "Where is object 40?" for q in queries):
            (self.folder / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answer(queries, configs, max_new_tokens=max_new_tokens)


class Panic(BaseException):
    """As a tokenizer in Rust panics."""


class Failing(ScriptedEngine):
    """Fails at two questions in ways that no code of ours does."""

    def answer(
        self,
        queries: Sequence[Query],
        configs: Sequence[SteeringConfig | None],
        *,
        max_new_tokens: int = 16,
    ) -> list[list[Answer]]:
        for query in queries:
            if query.prompt == "Where is object 9?":
                raise StopIteration
            if query.prompt == "Where is object 12?":
                raise Panic("index out of range")
        return super().answer(queries, configs, max_new_tokens=max_new_tokens)


class Refusing(ScriptedEngine):
    def answer(self, *_: object, **__: object) -> list[list[Answer]]:
        raise ConfigError("The model has 4 layers")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import sys

    # The workers cannot import these tests.
    ray.cloudpickle.register_pickle_by_value(scripted)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    evaluate(plan(), lambda m: ScriptedEngine(), folder)
    return (folder / "records.jsonl").read_bytes()


@pytest.mark.usefixtures("cluster")
def test_two_workers_write_the_records_of_a_local_run(whole: bytes, tmp_path: Path) -> None:
    executor = RayExecutor(workers=2)
    run = evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run", executor=executor)
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == whole
    assert run.engines["two"]["executor"] == "ray"
    assert run.engines["two"]["workers"] == "2"
    assert run.engines["two"]["ray"] == ray.__version__


@pytest.mark.usefixtures("cluster")
def test_one_question_that_fails_in_any_way_is_its_own_record(tmp_path: Path) -> None:
    executor = RayExecutor(workers=2)
    evaluate(plan(), lambda m: Failing(), tmp_path / "run", executor=executor)
    evaluate(plan(), lambda m: Failing(), tmp_path / "local")
    written = (tmp_path / "run" / "records.jsonl").read_bytes()
    assert written == (tmp_path / "local" / "records.jsonl").read_bytes()
    failed = {r.id: r.error for r in read_records(tmp_path / "run" / "records.jsonl") if r.error}
    assert failed == {"q9": "StopIteration: no reason given", "q12": "Panic: index out of range"}


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_loses_nothing(whole: bytes, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    evaluate(
        plan(), lambda m: Killing(killed, 1), tmp_path / "run", executor=RayExecutor(workers=2)
    )
    assert len(list(killed.iterdir())) == 1
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == whole


@pytest.mark.usefixtures("cluster")
def test_a_batch_that_kills_every_worker_ends_the_run(whole: bytes, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    with pytest.raises(AdaptVisError, match="3 workers died on one batch of 7 questions"):
        evaluate(
            plan(), lambda m: Killing(killed, 99), tmp_path / "run", executor=RayExecutor(workers=2)
        )
    kept = (tmp_path / "run" / "records.jsonl").read_bytes()
    assert kept
    assert whole.startswith(kept)
    evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == whole


@pytest.mark.usefixtures("cluster")
def test_a_worker_that_dies_while_loading_is_started_again(tmp_path: Path) -> None:
    def load_engine(deaths: int) -> ScriptedEngine:
        if len(list(tmp_path.iterdir())) < deaths:
            (tmp_path / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return ScriptedEngine()

    executor = RayExecutor(workers=1)
    executor.open(partial(load_engine, 2), 7)
    assert len(list(tmp_path.iterdir())) == 2
    assert executor.describe()["batch_size"] == "7"
    with pytest.raises(AdaptVisError, match="A worker died 3 times while it loaded") as raised:
        executor.open(partial(load_engine, 99), 7)
    assert 2 < len(list(tmp_path.iterdir())) <= 5
    assert "\n" not in str(raised.value)
    assert not isinstance(raised.value, ray.exceptions.RayError)
    executor.close()


@pytest.mark.usefixtures("cluster")
def test_a_batch_lost_in_any_way_is_asked_again(
    whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = RayExecutor(workers=2)
    usual, lost = ray.get, []

    def get(reference: object) -> object:
        found = usual(reference)
        if isinstance(found, list) and len(lost) < 2:
            lost.append(reference)
            # What Ray's memory monitor leaves of a worker: no RayActorError.
            raise ray.exceptions.OutOfMemoryError("killed")
        return found

    monkeypatch.setattr(ray, "get", get)
    evaluate(plan(), lambda m: ScriptedEngine(), tmp_path / "run", executor=executor)
    assert len(lost) == 2
    assert (tmp_path / "run" / "records.jsonl").read_bytes() == whole


@pytest.mark.usefixtures("cluster")
def test_errors_of_a_worker_arrive_as_they_are(tmp_path: Path) -> None:
    def fail() -> ScriptedEngine:
        raise AdaptVisError("no such model")

    executor = RayExecutor(workers=1)
    with pytest.raises(AdaptVisError, match=r"^no such model$"):
        executor.open(fail, 7)
    executor.open(partial(Refusing), 7)
    with pytest.raises(ConfigError, match=r"^The model has 4 layers$"):
        list(executor.ask(load("test"), Request((None,))))
    executor.close()


def test_a_number_of_workers_that_makes_no_sense() -> None:
    with pytest.raises(ConfigError, match="workers must be at least 1"):
        RayExecutor(workers=0)


def test_a_cluster_that_is_not_there_is_said_to_be_missing_at_once() -> None:
    ray.shutdown()
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9 cannot be reached .*--ray-address"):
        RayExecutor("127.0.0.1:9").open(ScriptedEngine, 7)
    assert time.monotonic() - started < 5
