"""All problems of a data set before the first step of a training run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from adaptvis.errors import AdaptVisError
from adaptvis.tasks.images import check_image, open_image
from adaptvis.training.llava.data.conversations import Conversation
from adaptvis.training.llava.data.dataset import ConversationDataset
from adaptvis.training.llava.data.tokens import IGNORED

__all__ = ["Problem", "check"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one sample; a run stops at it if it is fatal.

    `message` is one sentence that names file, index (0-based) and id.
    """

    index: int
    message: str
    fatal: bool = True


def check(
    dataset: ConversationDataset,
    *,
    decode: bool = False,
    progress: Callable[[int, int], None] | None = None,
    most: int | None = None,
) -> list[Problem]:
    """Reads every sample and looks at every image without training.

    Args:
        decode: decode images whole, which finds truncated files and takes as long as an epoch of
            loading; otherwise they are found and their headers read.
        progress: called with (samples done, samples) every 100 samples and at the end.
        most: stop after this many fatal problems.
    """
    problems: list[Problem] = []
    fatal = 0
    seen: set[Path] = set()
    for index in range(len(dataset)):
        try:
            conversation, where = dataset.conversation(index)
            for path in (
                dataset.image_paths(conversation.images, where) if conversation.images else ()
            ):
                if path not in seen:
                    (open_image if decode else check_image)(path, where)
                    seen.add(path)
            if _may_fail(dataset, conversation):
                tokens = dataset.tokens(conversation, where)
                if (tokens.labels == IGNORED).all():
                    message = f"{where}: nothing is left to learn (its answers are empty or beyond "
                    problems.append(
                        Problem(index, f"{message}max_length {dataset.max_length})", fatal=False)
                    )
        except AdaptVisError as error:
            problems.append(Problem(index, str(error)))
            fatal += 1
        if most is not None and fatal >= most:
            break
        if progress is not None and (index + 1) % 100 == 0:
            progress(index + 1, len(dataset))
    if progress is not None:
        progress(len(dataset), len(dataset))
    return problems


def _may_fail(dataset: ConversationDataset, conversation: Conversation) -> bool:
    """Whether only its tokens tell if a sample can be used: few samples, so the rest is quick."""
    answers = [turn.text for turn in conversation.turns if turn.role == "assistant"]
    if dataset.prompt_style == "plain" or not any(text.strip() for text in answers):
        return True
    if any(dataset.processor.image_token in turn.text for turn in conversation.turns):
        return True
    if dataset.max_length is None:
        return False
    # A token holds at least one byte; 32 are for what a template writes around a turn.
    most = sum(len(turn.text.encode()) + 32 for turn in conversation.turns)
    return most + len(conversation.images) * dataset.image_tokens.count > dataset.max_length
