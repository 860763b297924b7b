"""Attention maps for the examples that a report will show; transformers models only."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from adaptvis.cli.console import note
from adaptvis.errors import AdaptVisError

if TYPE_CHECKING:
    from adaptvis.attention_map import AnswerKey, AttentionMap
    from adaptvis.config import SteeringConfig
    from adaptvis.engine import Engine
    from adaptvis.evaluation.report import Changed
    from adaptvis.tasks import Prompts, Sample

__all__ = ["attention_of_examples"]


def attention_of_examples(
    examples: "Iterable[Changed]",
    configs: "Mapping[tuple[str, str], SteeringConfig | None]",
    find_sample: "Callable[[str, str], Sample]",
    load_engine: "Callable[[str], Engine]",
    prompts: "Prompts" = "chat",
    *,
    loaded: str = "",
    progress: "Callable[[int, int], None] | None" = None,
) -> "dict[AnswerKey, AttentionMap]":
    """Ask each model once more about its examples, one at a time.

    A model that has no maps or cannot be loaded is left out with a note, and so is a question.

    Args:
        examples: see :func:`adaptvis.evaluation.report.changed_answers`.
        configs: by (model, method).
        find_sample: the question of a task's name and an id.
        load_engine: by the model's name; called once for each model.
        loaded: name of the model that `load_engine` already holds; it goes first.
        progress: called with the examples done and all of them.
    """
    by_model: dict[str, list[Changed]] = {}
    for example in examples:
        by_model.setdefault(example.after.model, []).append(example)
    total, done = sum(map(len, by_model.values())), 0
    found: dict[AnswerKey, AttentionMap] = {}
    # Another model would take the place of the one that is loaded.
    for model in sorted(by_model, key=lambda name: name != loaded):
        problems: dict[str, list[str]] = {}
        for key, result in _maps(
            model, by_model[model], configs, find_sample, load_engine, prompts
        ):
            if isinstance(result, Exception):
                problems.setdefault(type(result).__name__, []).append(_sentence(result))
            else:
                found[key] = result
            done += 1
            if progress:
                progress(done, total)
        for texts in problems.values():
            note(f"{len(texts)} examples of {model} have no attention map: {texts[0]}")
    return found


def _maps(
    model: str,
    examples: "Iterable[Changed]",
    configs: "Mapping[tuple[str, str], SteeringConfig | None]",
    find_sample: "Callable[[str, str], Sample]",
    load_engine: "Callable[[str], Engine]",
    prompts: "Prompts",
) -> "Iterator[tuple[AnswerKey, AttentionMap | Exception]]":
    """The examples' maps, or why one has none; nothing after a note where the model has none."""
    from adaptvis.hf.engine import HFEngine
    from adaptvis.hf.image_attention import image_attention

    try:
        engine = load_engine(model)
    # The run is finished by then: whatever fails, its report only lacks the maps.
    except Exception as problem:
        note(f"the report has no attention maps of {model}: {_sentence(problem)}")
        return
    if not isinstance(engine, HFEngine):
        note(f"the report has no attention maps of {model}: only the engine hf shows them")
        return
    for example in examples:
        key = example.key
        result: AttentionMap | Exception
        try:
            query = find_sample(key.task, key.id).query(prompts)
            result = image_attention(engine, query, configs[key.model, key.method])
        except Exception as problem:
            # Its traceback would hold on to the model's tensors.
            result = problem.with_traceback(None)
        yield key, result


def _sentence(problem: Exception) -> str:
    text = " ".join(str(problem).split()) or "no reason given"
    return text if isinstance(problem, AdaptVisError) else f"{type(problem).__name__}: {text}"
