"""Put the report together and write it as one file."""

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adaptvis.attention_map import AnswerKey, AttentionMap
from adaptvis.config import SteeringConfig, parse_config
from adaptvis.errors import ConfigError
from adaptvis.evaluation.output import write_atomically
from adaptvis.evaluation.records import Record
from adaptvis.evaluation.report.charts import COLOURS, gain_strip
from adaptvis.evaluation.report.examples import PER_DIRECTION, Changed, changed_answers
from adaptvis.evaluation.report.overlay import overlay_values
from adaptvis.evaluation.report.pictures import OpenPictures, Pictures
from adaptvis.evaluation.report.text import (
    json_for_script,
    one_line,
    per_cent,
    signed_points,
    visible,
)
from adaptvis.evaluation.report.views import pair_view
from adaptvis.evaluation.results import Scoring, Summary
from adaptvis.evaluation.summary import right

__all__ = ["REPORT", "write_report"]

REPORT = "report.html"


def write_report(
    folder: Path,
    summary: Summary,
    records: Iterable[Record],
    *,
    run: Mapping[str, Any],
    engines: Mapping[str, Mapping[str, str]],
    open_pictures: OpenPictures | None = None,
    attention: Mapping[AnswerKey, AttentionMap] | None = None,
    examples: int = PER_DIRECTION,
) -> Path:
    """Write `report.html` into the run's folder: one file, no network, everything escaped.

    Args:
        run: the content of `run.json`. engines: their descriptions, by model.
        open_pictures: reopens the images of a shown example; None leaves them out with a note.
        attention: maps of shown examples (:func:`changed_answers` says which are shown).
        examples: shown per model, task, method and direction.

    Raises:
        ConfigError: a negative number of examples.
        OutputError: the file cannot be written.
    """
    if examples < 0:
        raise ConfigError(f"The number of examples must not be negative, got {examples}")
    changed = changed_answers(records, examples, scoring=summary.scoring)
    data = _examples(changed, summary.scoring, Pictures(open_pictures), attention or {})
    configs = _configs(run)
    environment = Environment(
        loader=PackageLoader("adaptvis.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"per_cent": per_cent, "points": signed_points, "line": one_line}
    style, script = (_asset(environment, name) for name in ("report.css", "report.js"))
    page = environment.get_template("report.html").render(
        style=style,
        script=script,
        style_hash=_digest(style),
        script_hash=_digest(script),
        data=json_for_script(data),
        example_count=len(changed),
        colours=COLOURS,
        pairs=[
            pair_view(summary, model, task, f"results-{number}", configs.get(model, {}))
            for number, (model, task) in enumerate(summary.pairs(), start=1)
        ],
        gain_strip=gain_strip,
        strip_limit=_strip_limit(summary),
        scoring=summary.scoring,
        run=_run_facts(run),
        methods=_method_rows(run),
        engines=engines,
    )
    path = folder / REPORT
    # A lone surrogate of a damaged answer is no UTF-8.
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return path


def _strip_limit(summary: Summary) -> float:
    """A round fraction that holds every overall gain with its interval."""
    gains = [g.gain for g in summary.gains if g.grouping == "all"]
    largest = max((abs(v) for g in gains for v in (g.low, g.high, g.mean)), default=0.0)
    return max(math.ceil(20 * largest) / 20, 0.05)


def _asset(environment: Environment, name: str) -> Markup:
    """A style sheet or script of our own, which goes into the page as it is."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _digest(text: str) -> str:
    """What the page's content security policy allows to run."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _configs(run: Mapping[str, Any]) -> dict[str, dict[str, SteeringConfig | None]]:
    """Steering configurations by model and method."""
    return {
        model["name"]: {
            method["name"]: parse_config(method["config"]) if method["config"] else None
            for method in model["methods"]
        }
        for model in run.get("models", ())
    }


def _method_rows(run: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Model, method and parameters."""
    rows = []
    for model in run.get("models", ()):
        for method in model["methods"]:
            config = method["config"] or {}
            texts = [
                f"{name} {','.join(map(str, value)) if isinstance(value, list) else value}"
                for name, value in config.items()
            ]
            rows.append((model["name"], method["name"], ", ".join(texts) or "unsteered"))
    return rows


def _run_facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The plain settings of the run, in their order."""
    return [
        (name.replace("_", " "), "none" if value is None else str(value))
        for name, value in run.items()
        if isinstance(value, str | int | float | None)
    ]


def _examples(
    changed: Sequence[Changed],
    scoring: Scoring,
    pictures: Pictures,
    attention: Mapping[AnswerKey, AttentionMap],
) -> dict[str, Any]:
    return {
        "examples": [_example(item, scoring, pictures, attention) for item in changed],
        "pictures": pictures.uris,
    }


def _example(
    item: Changed,
    scoring: Scoring,
    pictures: Pictures,
    attention: Mapping[AnswerKey, AttentionMap],
) -> dict[str, Any]:
    shown, note = pictures.of(item.before)
    found = attention.get(item.key)
    after = item.after
    return {
        "id": visible(after.id, 200),
        "model": visible(after.model, 200),
        "task": visible(after.task, 200),
        "method": visible(after.method, 200),
        "direction": item.direction,
        "of": item.of,
        "category": visible(after.category.replace("_", " "), 200),
        "question": visible(after.question),
        "gold": [visible(gold) for gold in after.gold],
        "confidence": after.confidence,
        "answers": [
            {
                "method": visible(record.method, 200),
                "text": visible(record.answer),
                "right": right(record, scoring),
                "score": record.score,
                "alpha": record.alpha,
                "applied": record.applied,
                "reason": visible(record.reason, 300),
            }
            for record in (item.before, after)
        ],
        "tags": {visible(k, 100): visible(v, 300) for k, v in after.tags.items()},
        "pictures": shown,
        "note": visible(note, 500),
        "attention": overlay_values(found) if found is not None and shown else None,
    }
