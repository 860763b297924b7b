"""Attention maps for the examples that a report will show; transformers models only."""

from collections.abc import Callable, Iterable, Mapping
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
) -> "dict[AnswerKey, AttentionMap]":
    """Ask each model once more about its examples, one at a time.

    A model that has no maps is left out with a note, and so is a question.

    Args:
        examples: see :func:`adaptvis.evaluation.report.changed_answers`.
        configs: by (model, method).
        find_sample: the question of a task's name and an id.
        load_engine: by the model's name; called once for each model.
    """
    from adaptvis.hf.engine import HFEngine
    from adaptvis.hf.image_attention import image_attention

    by_model: dict[str, list[Changed]] = {}
    for example in examples:
        by_model.setdefault(example.after.model, []).append(example)
    found: dict[AnswerKey, AttentionMap] = {}
    for model, of_model in by_model.items():
        engine = load_engine(model)
        if not isinstance(engine, HFEngine):
            note(f"the report has no attention maps of {model}: only the engine hf shows them")
            continue
        problems: dict[str, int] = {}
        for example in of_model:
            key = example.key
            try:
                query = find_sample(key.task, key.id).query(prompts)
                found[key] = image_attention(engine, query, configs[key.model, key.method])
            except AdaptVisError as problem:
                problems[str(problem)] = problems.get(str(problem), 0) + 1
        for text, count in problems.items():
            note(f"{count} examples of {model} have no attention map: {text}")
    return found
