"""Stage 6: stock vLLM, its own attention and CUDA graphs, beside the plugin."""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from gpu.setting import ROOT, Setting
from gpu.stage import Judgement, in_turn, judged
from gpu.store import Result

TITLE = "Steering in stock vLLM"
MEASURES = (
    "Compiled, with CUDA graphs, in bfloat16, by attention backend: the embedded model's answers "
    "against those of transformers in the same precision (questions about made scenes, unsteered, "
    "ScalingVis and AdaptVis), and the throughput of a random LLaVA of 300 M parameters with 576 "
    "image tokens: no plugin, plugin idle, every request steered; medians of interleaved rounds."
)
NEEDS = ("vllm", "torch", "triton", "transformers", "pydantic", "accelerate", "PIL", "yaml", "rich")
USES_KERNELS, OPTIONAL, TUNED = False, True, True

_BACKENDS = ("FLASH_ATTN", "TRITON_ATTN")
_NEW_TOKENS = 4
# Rounding in bfloat16 may decide between two close words; unsteered answers say how often.
_TOLERATED = 0.02


def names(smoke: bool) -> list[str]:
    backends = ("CPU_ATTN",) if smoke else _BACKENDS
    kinds = ("answers",) if smoke else ("answers", "throughput")
    return [f"{kind}, {backend}" for kind in kinds for backend in backends]


def results(setting: Setting, wanted: list[str]) -> Iterator[tuple[str, Result]]:
    with tempfile.TemporaryDirectory() as folder:
        _make_plugin_known(Path(folder))
        parts: dict[str, Any] = {}
        for name in wanted:
            kind, backend = name.split(", ")
            run = _answers if kind == "answers" else _throughput
            parts[name] = partial(run, backend, setting.smoke, setting.output / "6_vllm_engine.log")
        yield from in_turn(parts, wanted)


def _make_plugin_known(folder: Path) -> None:
    """vLLM finds plugins by their entry points, which a checkout that is not installed lacks."""
    from importlib.metadata import entry_points

    if any(point.name == "adaptvis" for point in entry_points(group="vllm.general_plugins")):
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    info = folder / "adaptvis-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: adaptvis\nVersion: 0\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {where}" for name, where in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def _options(backend: str, smoke: bool) -> dict[str, Any]:
    """Of ``vllm.LLM``; a CPU has one backend and compiles for minutes."""
    if smoke:
        return {"max_num_seqs": 8, "dtype": "float32", "enforce_eager": True}
    return {
        "max_num_seqs": 64,
        "dtype": "bfloat16",
        "enforce_eager": False,
        "attention_backend": backend,
        # Two engines share the device.
        "gpu_memory_utilization": 0.35,
    }


def _answers(backend: str, smoke: bool, log: Path) -> Result:
    from vllm_bench.engine_process import EngineProcess
    from vllm_bench.workload import METHODS, tiny_model

    count = 8 if smoke else 200
    methods = {name: METHODS[name] for name in ("idle", "scalingvis", "adaptvis")}
    expected = _of_transformers(list(methods.values()), count, smoke)
    options = _options(backend, smoke) | {"max_model_len": 128}
    settings = {"model": str(tiny_model()), "large": False, "count": count, "options": options}
    equal = {}
    with log.open("a") as file, EngineProcess(settings, plugin=True, log=file) as engine:
        for (name, config), right in zip(methods.items(), expected, strict=True):
            tokens = engine.answer(config, _NEW_TOKENS)["tokens"]
            same = [ours[: len(r)] == r for ours, r in zip(tokens, right, strict=True)]
            equal[name] = sum(same) / count
    result: Result = {"count": count, "equal": equal}
    allowed = 1.0 if smoke else equal["idle"] - _TOLERATED
    worst = min(equal, key=equal.__getitem__)
    if equal[worst] < allowed:
        result["problem"] = f"{worst}: {100 * equal[worst]:.1f} % of the answers are the same"
    return result


def _of_transformers(configs: list[Any], count: int, smoke: bool) -> list[list[list[int]]]:
    """Token numbers of every answer under every configuration, to the end of the answer."""
    import gc

    import torch
    from vllm_bench.workload import requests_for, tiny_model

    from adaptvis.engine import Query
    from adaptvis.hf.engine import HFEngine

    device, dtype = ("cpu", "float32") if smoke else ("cuda", "bfloat16")
    engine = HFEngine.load(tiny_model(), dtype=dtype, device=device)
    queries = [Query(r.question, (r.image,)) for r in requests_for(False, count)]
    answers = engine.answer(queries, configs, max_new_tokens=_NEW_TOKENS)
    end = engine.model.generation_config.eos_token_id
    ends = set(end) if isinstance(end, list) else {end}

    def until_end(ids: tuple[int, ...]) -> list[int]:
        stop = next((i for i, token in enumerate(ids) if token in ends), len(ids) - 1)
        return list(ids[: stop + 1])

    found = [[until_end(answer.token_ids) for answer in row] for row in answers]
    del engine
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def _throughput(backend: str, smoke: bool, log: Path) -> Result:
    from vllm_bench.engine_process import EngineProcess
    from vllm_bench.measure import interleaved
    from vllm_bench.workload import METHODS, large_model

    count, tokens, rounds = 128, 32, 5
    folder = Path(tempfile.gettempdir()) / "adaptvis-random-llava-18"
    options = _options(backend, smoke) | {"max_model_len": 1024}
    settings = {
        "model": str(large_model(folder)),
        "large": True,
        "count": count,
        "options": options,
    }
    with (
        log.open("a") as file,
        EngineProcess(settings, plugin=False, log=file) as absent,
        EngineProcess(settings, plugin=True, log=file) as plugin,
    ):

        def run(name: str) -> dict[str, float]:
            engine = absent if name == "absent" else plugin
            return {"requests": count / engine.answer(METHODS[name], tokens)["seconds"]}

        for name in METHODS:
            run(name)
        found = interleaved(list(METHODS), run, rounds, backend)
    return {"count": count, "tokens": tokens, "requests_per_second": found["requests"]}


def page(results: dict[str, Result], smoke: bool) -> list[str]:
    lines = []
    answers = {name: r["equal"] for name, r in results.items() if "equal" in r}
    if answers:
        lines += [
            "| the same as transformers | unsteered | ScalingVis | AdaptVis |",
            "|---" * 4 + "|",
        ]
        for name, equal in answers.items():
            cells = [f"{100 * equal[kind]:.1f} %" for kind in ("idle", "scalingvis", "adaptvis")]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    speeds = {n: r["requests_per_second"] for n, r in results.items() if "requests_per_second" in r}
    if speeds:
        header = "| requests per second | no plugin | idle | ScalingVis | AdaptVis |"
        lines += [header, "|---" * 5 + "|"]
        for name, values in speeds.items():
            cells = [
                f"{median(values[kind]):.1f}"
                for kind in ("absent", "idle", "scalingvis", "adaptvis")
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def judge(results: dict[str, Result]) -> list[Judgement]:
    found = []
    for what, ours, base, bound in (
        ("plugin idle over no plugin", "idle", "absent", 0.99),
        ("every request ScalingVis over none", "scalingvis", "idle", 0.98),
        ("every request AdaptVis over none", "adaptvis", "idle", 0.98),
    ):
        ratios = [
            median(r["requests_per_second"][ours]) / median(r["requests_per_second"][base])
            for r in results.values()
            if "requests_per_second" in r
        ]
        found.append(judged(f"vLLM throughput: {what}", bound, ratios, at_most=False))
    equal = [min(r["equal"].values()) for r in results.values() if "equal" in r]
    what = "vLLM: share of answers that are those of transformers"
    return [*found, judged(what, 1 - _TOLERATED, equal, at_most=False)]
