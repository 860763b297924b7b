"""Stage 7: a training step of a Normalize model, its tail fused or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

from gpu.setting import Setting
from gpu.stage import Judgement, in_turn, judged
from gpu.store import Result

TITLE = "A training step with the fused Normalize tail"
MEASURES = (
    "Stage 1 of training (projector and norm, the rest frozen) of a random model of LLaVA-1.5-7B's "
    "shape in bfloat16: the Normalize tail as one kernel forward and one backward, as PyTorch "
    "operations, and a projector without it; medians of interleaved rounds. Losses and gradients "
    "of both tails are compared. Then the tail alone, beside the bandwidth of a copy."
)
NEEDS = ("torch", "triton", "transformers", "pydantic", "accelerate", "yaml", "rich")
USES_KERNELS, OPTIONAL, TUNED = True, False, True

_STEP, _TAIL = "training step", "tail, forward and backward"
# Of the gradients in bfloat16 of two ways to compute the same.
_LIMIT = 2e-2


def names(smoke: bool) -> list[str]:
    return [_STEP, _TAIL]


def results(setting: Setting, wanted: list[str]) -> Iterator[tuple[str, Result]]:
    from adaptvis_kernels.device_check import choose_device

    device = choose_device(smoke=setting.smoke)
    runs = {_STEP: _step, _TAIL: _tail}
    parts: dict[str, Any] = {
        name: partial(run, device, setting.smoke) for name, run in runs.items()
    }
    yield from in_turn(parts, wanted)


def _step(device: Any, smoke: bool) -> Result:
    import torch
    from hf_bench.measure import interleaved
    from hf_bench.shapes import build, normalized_llava, shapes

    from adaptvis.steering.backend import override_backend

    made = build(normalized_llava(small=smoke), device, head_scale=1.0)
    inputs = made.prompts(1 if smoke else 4)
    image = int(made.model.config.image_token_id)
    inputs["labels"] = torch.where(inputs["input_ids"] == image, -100, inputs["input_ids"])
    step = _Step(made.model, inputs)
    gradients, losses = {}, {}
    for backend in ("triton", "torch"):
        with override_backend(backend):
            losses[backend], gradients[backend] = step.gradients()
    plain = build(shapes(small=smoke)["llava-1.5-7b"], device, head_scale=1.0)
    plain_step = _Step(plain.model, inputs)

    def run(backend: Any) -> None:
        with override_backend(backend):
            step()

    seconds = interleaved(
        1 if smoke else 5,
        "",
        fused=partial(run, "triton"),
        operations=partial(run, "torch"),
        without=plain_step,
    )
    error = _relative(gradients["triton"], gradients["torch"])
    result: Result = {
        "seconds": seconds,
        "losses": losses,
        "gradient_error": error,
        "peak": None if smoke else torch.cuda.max_memory_allocated() / 2**30,
    }
    # NaN is above the limit, too.
    if not error <= _LIMIT:
        result["gradient_error"] = str(error)
        result["problem"] = f"gradients of the fused tail are {error:.1e} off"
    return result


class _Step:
    """One optimiser step of the projector on one batch."""

    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        import torch

        self.model, self.inputs = model.train(), inputs
        self.trained = list(model.model.multi_modal_projector.parameters())
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.optimiser = torch.optim.AdamW(self.trained, lr=1e-5)

    def __call__(self) -> None:
        self.model(**self.inputs, use_cache=False).loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def gradients(self) -> tuple[float, Any]:
        """The loss, and every gradient in one vector."""
        import torch

        loss = self.model(**self.inputs, use_cache=False).loss
        loss.backward()
        found = torch.cat([parameter.grad.flatten().double() for parameter in self.trained])
        self.optimiser.zero_grad()
        return float(loss.detach()), found


def _relative(ours: Any, theirs: Any) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def _tail(device: Any, smoke: bool) -> Result:
    """8 pictures of 576 tokens of width 4096, at Vicuna-7B's norms."""
    import torch
    from adaptvis_kernels import normalize_projection
    from adaptvis_kernels.device_check.timing import measure, measure_ceilings
    from adaptvis_kernels.ops.rescale_norms.cost import cost
    from train_step import LibraryTail

    rows, width = (6, 96) if smoke else (8 * 576, 4096)
    dtype = torch.bfloat16
    features = torch.randn(rows, width, device=device, dtype=dtype, requires_grad=True)
    weight = torch.full((width,), width**-0.5, device=device, requires_grad=True)
    gradient = torch.randn(rows, width, device=device, dtype=dtype)
    library = LibraryTail(width).to(device, dtype)

    def fused() -> None:
        normalize_projection(features, weight, max_norm=1.22, target_mean=0.83).backward(gradient)

    def operations() -> None:
        library(features).backward(gradient)

    # Autograd's backward runs on the stream of the forward pass; graphs need one of their own.
    with torch.cuda.stream(torch.cuda.Stream() if device.type == "cuda" else None):
        ceilings = measure_ceilings(device, smoke=smoke)
        calls: dict[str, Callable[[], None]] = {"fused": fused, "operations": operations}
        times = {name: measure([call], device).median for name, call in calls.items()}
    moved = sum(cost(rows, width, normalize=True, backward=b)[0] for b in (False, True))
    return {"microseconds": times, "share": moved / ceilings.copy / (times["fused"] / 1e6)}


def page(results: dict[str, Result], smoke: bool) -> list[str]:
    lines = []
    if _STEP in results:
        step = results[_STEP]
        lines += ["| training step | ms |", "|---|---|"]
        for name, values in step["seconds"].items():
            lines.append(f"| {name} | {'ran' if smoke else f'{1e3 * median(values):.1f}'} |")
        losses = ", ".join(f"{name} {value:.4f}" for name, value in step["losses"].items())
        lines += ["", f"Losses: {losses}; gradients differ by {step['gradient_error']:.1e}."]
        if step["peak"] is not None:
            lines.append(f"Peak memory: {step['peak']:.1f} GiB, two models.")
        lines.append("")
    if _TAIL in results and not smoke:
        tail = results[_TAIL]
        lines += [f"| {_TAIL} | us |", "|---|---|"]
        lines += [f"| {name} | {value:.1f} |" for name, value in tail["microseconds"].items()]
        lines += ["", f"Fused: {100 * tail['share']:.0f} % of the copy bandwidth.", ""]
    return lines


def judge(results: dict[str, Result]) -> list[Judgement]:
    shares = [results[_TAIL]["share"]] if _TAIL in results else []
    what = "fused tail, forward and backward: share of copy bandwidth"
    found = [judged(what, 0.85, shares, at_most=False)]
    ratios = []
    if _STEP in results:
        seconds = {name: median(v) for name, v in results[_STEP]["seconds"].items()}
        ratios = [seconds["fused"] / seconds["operations"]]
    what = "training step: fused tail over the same in operations"
    return [*found, judged(what, 1.0, ratios, at_most=True)]
