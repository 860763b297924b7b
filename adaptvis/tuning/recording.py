"""A sweep on disk: `sweep.json` says what was asked, `sweep.jsonl` holds a line per question.

A line is on disk before the next batch is asked. A killed process leaves whole lines and at most
one torn one, which is cut off; a changed configuration is refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from adaptvis.errors import DataError, OtherRunError, OutputError
from adaptvis.evaluation.line_file import LineFile
from adaptvis.evaluation.output import SWEEP, differences, placeless, write_atomically
from adaptvis.tasks import Grade, Sample

__all__ = ["SWEEP", "SWEEP_LINES", "GradedAnswer", "Question", "SweepFile"]

SWEEP_LINES = "sweep.jsonl"


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """An answer that some settings gave, and its grade; score is 0 to 1."""

    text: str
    correct: bool
    strict: bool
    score: float


@dataclass(slots=True)
class Question:
    """One question of a sweep.

    confidence: unsteered; None where the model gave no finite number.
    answers: the distinct ones. given: which of them each setting gave,
        `[layer selections][alphas]`.
    error: why it could not be asked.
    """

    id: str
    image_id: str
    category: str
    gold: tuple[str, ...]
    tags: dict[str, str]
    confidence: float | None = None
    answers: list[GradedAnswer] = field(default_factory=list)
    given: list[list[int]] = field(default_factory=list)
    error: str | None = None

    @classmethod
    def of(cls, sample: Sample, confidence: float | None) -> "Question":
        """A question that has no answers yet."""
        tags = dict(sample.tags)
        return cls(sample.id, sample.image_id, sample.category, sample.gold, tags, confidence)

    @classmethod
    def unreadable(cls, sample: Sample, error: str) -> "Question":
        tags = dict(sample.tags)
        return cls(sample.id, sample.image_id, sample.category, sample.gold, tags, error=error)

    def add(self, text: str, grade: Callable[[str], Grade]) -> int:
        """The index of the answer; a new one is graded."""
        for index, answer in enumerate(self.answers):
            if answer.text == text:
                return index
        graded = grade(text)
        self.answers.append(GradedAnswer(text, graded.correct, graded.strict, graded.points))
        return len(self.answers) - 1

    def to_line(self) -> str:
        """One line of JSON with its line end."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_line(cls, line: str) -> "Question":
        """The question of one line.

        Raises:
            ValueError, TypeError, KeyError: not the JSON of a question.
        """
        value = json.loads(line)
        answers = [GradedAnswer(**answer) for answer in value.pop("answers")]
        return cls(**(value | {"gold": tuple(value["gold"]), "answers": answers}))


class SweepFile(LineFile):
    """The growing record of one sweep; see :class:`LineFile` for what it survives.

    Args:
        identity: everything that decides the answers, as plain values.
        ids: of the questions to ask, in order.

    Raises:
        OutputError: the folder cannot be written, is being written, or holds something while
            `resume` is off.
        OtherRunError: the folder's sweep was configured differently.
        DataError: a line is not of this sweep.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], ids: Sequence[str], *, resume: bool
    ) -> None:
        _prepare(folder, identity, resume=resume)
        super().__init__(folder / SWEEP_LINES)
        try:
            self.questions = self._read()
            if [q.id for q in self.questions] != list(ids[: len(self.questions)]):
                raise DataError(
                    f"{self.path} does not hold the questions of this sweep in their order; "
                    "choose another --output"
                )
        except BaseException:
            self.close()
            raise

    def append(self, questions: Sequence[Question]) -> None:
        """Write a batch; on return it is on disk."""
        self.write("".join(question.to_line() for question in questions))
        self.questions.extend(questions)

    def _read(self) -> list[Question]:
        questions = []
        for number, line in enumerate(self.path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                questions.append(Question.from_line(line.decode("utf-8")))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise DataError(
                    f"{self.path}, line {number}: not a question of a sweep; choose another "
                    "--output"
                ) from None
        return questions


def _prepare(folder: Path, identity: Mapping[str, Any], *, resume: bool) -> None:
    stored = folder / SWEEP
    wanted = json.loads(json.dumps(identity))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise OutputError(f"Cannot write to the folder {folder}: {error.strerror}") from None
    if SWEEP not in held:
        if held:
            raise OutputError(
                f"The folder {folder} holds other files ({held[0]}); choose another --output"
            )
        write_atomically(stored, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
        return
    if not resume and (folder / SWEEP_LINES).is_file():
        raise OutputError(
            f"The folder {folder} already holds a sweep; add --resume to finish it or to choose "
            "from it again, or choose another --output"
        )
    try:
        found = json.loads(stored.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise OutputError(f"{stored} cannot be read; choose another --output") from None
    if placeless(found) != placeless(wanted):
        changes = "; ".join(differences(placeless(found), placeless(wanted)))
        raise OtherRunError(
            f"The sweep in {folder} was started with another configuration ({changes}); repeat "
            "the same options, or choose another --output"
        )
