"""Stage 4: transformers end to end, on random models of the shapes of three in use."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from statistics import median
from typing import Any

from gpu.setting import Setting
from gpu.stage import Judgement, in_turn, judged
from gpu.store import Result

TITLE = "Steering in transformers, end to end"
MEASURES = (
    "Random weights in bfloat16 of the shapes of LLaVA-1.5-7B, Qwen2.5-VL-7B and Gemma-3-4B, built "
    "on the device; one picture and 48 text tokens a prompt. Medians of interleaved rounds: "
    "AdaptVis and steering switched off against the untouched model, against the published recipe "
    "(two eager generations, one prompt at a time; 8 new tokens), and ten coefficients against one "
    "unsteered answer of 2 tokens. Memory is the peak of one call, weights included."
)
NEEDS = ("torch", "triton", "transformers", "pydantic", "accelerate", "PIL", "yaml", "rich")
USES_KERNELS, OPTIONAL, TUNED = False, False, False

_ALPHAS = (0.5, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 2.5, 3.0)
_ROUNDS = 5


def _plan(smoke: bool) -> Iterator[tuple[str, str, Callable[[Any, bool], Result]]]:
    """Model, part and what to do with the model."""
    from hf_bench.shapes import shapes

    batches = (1, 2) if smoke else (1, 16, 64)
    lengths = (1, 2) if smoke else (1, 32)
    several = batches[1]
    for name in shapes(small=smoke):
        for batch in batches:
            for length in lengths:
                what = f"{name}, batch {batch}, {length} new tokens"
                yield name, what, partial(_overhead, batch=batch, length=length)
        for batch in (1, several):
            what = f"{name}, published recipe, batch {batch}"
            yield name, what, partial(_recipe, batch=batch)
        what = f"{name}, {len(_ALPHAS)} coefficients, batch {several}"
        yield name, what, partial(_sweep, batch=several)


def names(smoke: bool) -> list[str]:
    return [what for _, what, _ in _plan(smoke)]


def results(setting: Setting, wanted: list[str]) -> Iterator[tuple[str, Result]]:
    parts: dict[str, Any] = {
        what: partial(_run, run, name, setting.smoke) for name, what, run in _plan(setting.smoke)
    }
    yield from in_turn(parts, wanted)


def _run(run: Callable[[Any, bool], Result], name: str, smoke: bool) -> Result:
    return run(_model(name, smoke), smoke)


@lru_cache(maxsize=1)
def _model(name: str, smoke: bool) -> Any:
    """One model at a time: the next one takes its place."""
    import torch
    from hf_bench.shapes import build, shapes

    gc.collect()
    device = torch.device("cpu")
    if not smoke:
        torch.cuda.empty_cache()
        device = torch.device("cuda", torch.cuda.current_device())
    return build(shapes(small=smoke)[name], device)


def _policy(model: Any, inputs: dict[str, Any]) -> Any:
    """AdaptVis with a threshold amid the batch's own confidences.

    Halfway between two hundredths, where the recipe's rounding decides nothing.
    """
    import torch

    from adaptvis import AdaptVis
    from adaptvis.steering.policy import confidence_of

    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=1,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    middle = median(confidence_of(output.logits[0]).tolist())
    threshold = min(math.floor(100 * middle) / 100 + 0.005, 0.995)
    return AdaptVis(alpha_low=0.5, alpha_high=1.5, threshold=threshold)


def _overhead(made: Any, smoke: bool, *, batch: int, length: int) -> Result:
    import torch
    from hf_bench.measure import generate, interleaved

    from adaptvis import steer

    model, inputs = made.model, made.prompts(batch)
    config = _policy(model, inputs)
    decisions: list[Any] = []

    def unsteered() -> Any:
        return generate(model, inputs, length)

    def off() -> Any:
        with steer(model, None):
            return generate(model, inputs, length)

    def adaptvis() -> Any:
        with steer(model, config) as handle:
            answer = generate(model, inputs, length)
        decisions[:] = handle.last
        return answer

    seconds = interleaved(
        1 if smoke else _ROUNDS, "", unsteered=unsteered, off=off, adaptvis=adaptvis
    )
    result: Result = {
        "batch": batch,
        "length": length,
        "seconds": seconds,
        "peak": {"unsteered": _peak(unsteered), "adaptvis": _peak(adaptvis)},
        "alphas": sorted({decision.alpha for decision in decisions}),
        "threshold": config.threshold,
    }
    if not torch.equal(unsteered(), off()):
        result["problem"] = "steering that is off changes the answers"
    elif not all(decision.applied for decision in decisions):
        result["problem"] = f"not steered: {decisions[0].reason}"
    return result


def _peak(run: Callable[[], Any]) -> float | None:
    """GiB at most."""
    import torch

    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() / 2**30


def _recipe(made: Any, smoke: bool, *, batch: int) -> Result:
    from hf_bench.measure import generate, interleaved
    from published_recipe import published_adaptvis

    from adaptvis import steer

    model, inputs = made.model, made.prompts(batch)
    config = _policy(model, inputs)
    length = 2 if smoke else 8
    answers: dict[str, Any] = {}

    def recipe() -> None:
        answers["recipe"] = published_adaptvis(
            model, inputs, config, length, lambda index: made.alone(inputs, index)
        )

    def ours() -> None:
        with steer(model, config):
            answers["ours"] = generate(model, inputs, length)

    # A single round has no warm-up, and a shape that is new may have to be compiled for.
    ours()
    seconds = interleaved(1 if smoke or batch > 1 else 3, "", recipe=recipe, ours=ours)
    # In bfloat16, eager and fused attention may round a close first token differently.
    equal = (answers["recipe"][:, 0] == answers["ours"][:, 0]).float().mean()
    return {"batch": batch, "seconds": seconds, "equal_first_tokens": float(equal)}


def _sweep(made: Any, smoke: bool, *, batch: int) -> Result:
    from hf_bench.measure import interleaved
    from hf_bench.shapes import SyntheticProcessor
    from PIL import Image

    from adaptvis import ScalingVis
    from adaptvis.engine import Query
    from adaptvis.hf.engine import HFEngine

    engine = HFEngine(made.model, SyntheticProcessor(made), made.shape.name)
    queries = [Query("where", (Image.new("RGB", (8, 8)),))] * batch
    configs = [ScalingVis(alpha=alpha) for alpha in _ALPHAS]
    answers: list[Any] = []

    def unsteered() -> None:
        engine.answer(queries, [None], max_new_tokens=2)

    def sweep() -> None:
        answers[:] = engine.answer(queries, configs, max_new_tokens=2)

    seconds = interleaved(1 if smoke else 3, "", unsteered=unsteered, sweep=sweep)
    result: Result = {"batch": batch, "seconds": seconds}
    for alpha, row in zip(_ALPHAS, answers, strict=True):
        for answer in row:
            if abs(answer.alpha - alpha) > 1e-6:
                result["problem"] = f"alpha {answer.alpha} instead of {alpha}: {answer.reason}"
    return result


def _medians(result: Result) -> dict[str, float]:
    return {name: median(values) for name, values in result["seconds"].items()}


def _ratio(result: Result, ours: str, base: str) -> float:
    """Of the medians."""
    seconds = _medians(result)
    return seconds[ours] / seconds[base]


def _kind(result: Result) -> str:
    names = result["seconds"]
    return "overhead" if "off" in names else "recipe" if "recipe" in names else "sweep"


def page(results: dict[str, Result], smoke: bool) -> list[str]:
    lines = []
    tables: dict[str, tuple[tuple[str, ...], Callable[[Result], list[str]]]] = {
        "overhead": (
            ("unsteered s", "AdaptVis s", "AdaptVis / unsteered", "off / unsteered", "peak GiB"),
            _overhead_cells,
        ),
        "recipe": (("recipe s", "ours s", "recipe / ours", "equal first tokens"), _recipe_cells),
        "sweep": (("unsteered s", "sweep s", "sweep / unsteered"), _sweep_cells),
    }
    for kind, (header, cells) in tables.items():
        chosen = {name: result for name, result in results.items() if _kind(result) == kind}
        if not chosen:
            continue
        lines += [f"| | {' | '.join(header)} |", "|---" * (len(header) + 1) + "|"]
        for name, result in chosen.items():
            texts = ["ran"] * len(header) if smoke else cells(result)
            lines.append(f"| {name} | {' | '.join(texts)} |")
        lines.append("")
    return lines


def _overhead_cells(result: Result) -> list[str]:
    seconds = _medians(result)
    peaks = [f"{value:.1f}" for value in result["peak"].values() if value is not None]
    return [
        f"{seconds['unsteered']:.4f}",
        f"{seconds['adaptvis']:.4f}",
        f"{_ratio(result, 'adaptvis', 'unsteered'):.3f}",
        f"{_ratio(result, 'off', 'unsteered'):.3f}",
        " / ".join(peaks),
    ]


def _recipe_cells(result: Result) -> list[str]:
    seconds = _medians(result)
    faster = _ratio(result, "recipe", "ours")
    equal = f"{100 * result['equal_first_tokens']:.0f} %"
    return [f"{seconds['recipe']:.3f}", f"{seconds['ours']:.3f}", f"{faster:.2f}", equal]


def _sweep_cells(result: Result) -> list[str]:
    seconds = _medians(result)
    ratio = f"{_ratio(result, 'sweep', 'unsteered'):.3f}"
    return [f"{seconds['unsteered']:.3f}", f"{seconds['sweep']:.3f}", ratio]


def judge(results: dict[str, Result]) -> list[Judgement]:
    def ratios(kind: str, ours: str, base: str, **fixed: int) -> list[float]:
        return [
            _ratio(result, ours, base)
            for result in results.values()
            if _kind(result) == kind and all(result[k] == v for k, v in fixed.items())
        ]

    found = [
        judged(
            f"transformers: AdaptVis over unsteered, {length} new tokens",
            1.02,
            ratios("overhead", "adaptvis", "unsteered", length=length),
            at_most=True,
        )
        for length in (1, 32)
    ]
    off = ratios("overhead", "off", "unsteered")
    found.append(judged("transformers: patched but off over untouched", 1.01, off, at_most=True))
    for batch, bound in ((1, 2.0), (16, 5.0)):
        faster = ratios("recipe", "recipe", "ours", batch=batch)
        what = f"transformers: published recipe over ours, batch {batch}"
        found.append(judged(what, bound, faster, at_most=False))
    sweep = ratios("sweep", "sweep", "unsteered")
    what = f"transformers: {len(_ALPHAS)} coefficients over one unsteered answer"
    return [*found, judged(what, 1.15, sweep, at_most=True)]
