"""One stage, in a process of its own: run what is not there yet, write its two pages."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gpu.setting import Setting, key_of, versions
from gpu.store import Result, Store

STAGES = ("correctness", "speed", "tuning", "models", "families", "vllm", "training")


@dataclass(frozen=True)
class Judgement:
    """A target beside what was measured; verdict: "met", "not met" or "not measured"."""

    what: str
    target: str
    measured: str
    verdict: str


def judged(what: str, target: float, values: list[float], *, at_most: bool) -> Judgement:
    """The worst of ``values`` against ``target``."""
    text = f"{'<=' if at_most else '>='} {target:g}"
    if not values:
        return Judgement(what, text, "", "not measured")
    worst = (max if at_most else min)(values)
    met = worst <= target if at_most else worst >= target
    numbers = f"{worst:.3f}" if len(values) == 1 else f"worst {worst:.3f} of {len(values)}"
    return Judgement(what, text, numbers, "met" if met else "not met")


def named(parser: argparse.ArgumentParser, texts: list[str]) -> list[str]:
    """The stages of these names or numbers; the parser ends the program at any other."""
    for text in texts:
        if text not in STAGES and text not in map(str, range(1, len(STAGES) + 1)):
            parser.error(f"unknown stage {text!r}; one of {', '.join(STAGES)}, or its number")
    return [STAGES[int(text) - 1] if text.isdigit() else text for text in texts]


def module_of(stage: str) -> Any:
    """The module of a stage."""
    return importlib.import_module(f"gpu.stages.{stage}")


def stem_of(stage: str) -> str:
    """The name of its files."""
    return f"{STAGES.index(stage) + 1}_{stage}"


def missing_packages(needs: tuple[str, ...]) -> list[str]:
    """Those that cannot be found; a folder that happens to have the name is none."""
    specs = {name: importlib.util.find_spec(name) for name in needs}
    return [name for name, spec in specs.items() if spec is None or spec.origin is None]


class TimeIsOver(Exception):
    """Raised by a part that could not end in time: it was not run."""


def in_turn(
    parts: dict[str, Callable[[], Result]], wanted: list[str]
) -> Iterator[tuple[str, Result]]:
    """Run the wanted parts one after another; one that fails is a result, too."""
    for name in wanted:
        try:
            result = parts[name]()
        except TimeIsOver:
            return
        # The benchmarks end with a sentence where they cannot go on.
        except (Exception, SystemExit) as problem:
            traceback.print_exc()
            result = {"problem": last_line(problem)}
        yield name, result


def last_line(problem: BaseException) -> str:
    """What a traceback ends with, in one line."""
    lines = "".join(traceback.format_exception_only(problem)).strip().splitlines()
    return (lines[0] if lines else type(problem).__name__)[:300]


def run_stage(stage: str, setting: Setting, machine: dict[str, Any]) -> int:
    """Run a stage; 0 where all of it is there or time was short, 1 where something failed."""
    report = Report(stage, setting, machine)
    module = report.module
    missing = missing_packages(module.NEEDS)
    if missing:
        verb = "are" if len(missing) > 1 else "is"
        return report.end(
            "skipped" if module.OPTIONAL else "failed",
            f"{', '.join(missing)} {verb} missing: python benchmarks/gpu/run.py --wheels {stage} "
            "says what to bring",
        )
    if module.USES_KERNELS and not setting.smoke and (reason := machine.get("kernels")):
        return report.end("failed", reason)
    store = Store(
        setting.output / f"{report.stem}.jsonl",
        key_of(machine, smoke=setting.smoke, tuned=module.TUNED),
        again=setting.again,
    )
    report.results, report.kept = store.results, store.kept
    report.planned = module.names(setting.smoke)
    wanted = [name for name in report.planned if name not in store.results]
    try:
        if wanted:
            for part, result in module.results(setting, wanted):
                store.add(part, result)
                print(f"{part}: {result.get('problem', 'done')}", flush=True)
                report.write("running")
                if setting.time_left() <= 0:
                    break
    except Exception as problem:
        traceback.print_exc()
        return report.end("failed", last_line(problem))
    failed = report.failed()
    if failed:
        part, text = next(iter(failed.items()))
        return report.end("failed", f"{len(failed)} parts, the first: {part}: {text}")
    return report.end("unfinished" if report.left_out() else "done")


class Report:
    """The pages of a stage, written after each part, so that they are there whatever happens."""

    def __init__(self, stage: str, setting: Setting, machine: dict[str, Any]) -> None:
        self.stage, self.setting, self.machine = stage, setting, machine
        self.stem, self.module = stem_of(stage), module_of(stage)
        self.results: dict[str, Result] = {}
        self.planned: list[str] = []
        self.kept = 0
        self.started = time.time()

    def failed(self) -> dict[str, str]:
        """Problem by part."""
        return {
            name: result["problem"]
            for name, result in self.results.items()
            if "problem" in result and name in self.planned
        }

    def left_out(self) -> list[str]:
        """The parts that there was no time for."""
        return [name for name in self.planned if name not in self.results]

    def end(self, state: str, detail: str = "") -> int:
        """Write the last version; returns the exit status."""
        self.write(state, detail)
        return 1 if state == "failed" else 0

    def write(self, state: str, detail: str = "") -> None:
        """Both pages, as things stand."""
        sound = {name: r for name, r in self.results.items() if "problem" not in r}
        judgements = [] if self.setting.smoke else self.module.judge(sound)
        data = {
            "stage": self.stage,
            "state": state,
            "detail": detail,
            "planned": len(self.planned),
            "finished": len(sound),
            "kept": self.kept,
            "left_out": self.left_out(),
            "failed": self.failed(),
            "seconds": round(time.time() - self.started, 1),
            "smoke": self.setting.smoke,
            "command": self.setting.command,
            "machine": self.machine,
            "versions": versions(),
            "targets": [asdict(judgement) for judgement in judgements],
            "results": self.results,
        }
        body = self.module.page(sound, self.setting.smoke) if sound else []
        write_pages(self.setting.output, self.stem, data, self.module, body)


def write_pages(
    folder: Path, stem: str, data: dict[str, Any], module: Any, body: list[str]
) -> None:
    """STEM.json and STEM.md."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=1, allow_nan=False)
    (folder / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
    lines = [f"# {module.TITLE}", "", module.MEASURES, ""]
    if data["smoke"]:
        lines += ["**Smoke run: tiny shapes, no GPU. Its times mean nothing.**", ""]
    lines += [f"`{data['command']}`: {state_text(data)}", ""]
    lines += [*described(data["machine"], data["versions"]), ""]
    if data["targets"]:
        lines += [*targets_table(data["targets"]), ""]
    lines += body
    if data["failed"]:
        lines += ["## Failed", "", *(f"- {n}: {text}" for n, text in data["failed"].items()), ""]
    if data["left_out"]:
        lines += ["## Left out for lack of time", "", *(f"- {n}" for n in data["left_out"]), ""]
    (folder / f"{stem}.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def state_text(data: dict[str, Any]) -> str:
    """How far a stage came."""
    text = f"{data['state']}, {data['finished']} of {data['planned']} parts"
    if data["kept"]:
        text += f", {data['kept']} of them from an earlier run"
    return f"{text}, {data['seconds']:.0f} s. {data['detail']}".rstrip()


def described(machine: dict[str, Any], programs: dict[str, str]) -> list[str]:
    """Two lines: the machine, the versions."""
    facts = [str(machine[name]) for name in ("device", "architecture") if machine.get(name)]
    if machine.get("memory"):
        facts.append(f"{machine['memory']} GiB")
    for name in ("driver", "runtime", "state", "system"):
        if machine.get(name):
            facts.append(f"{name} {machine[name]}" if name != "runtime" else machine[name])
    numbers = ", ".join(f"{name} {number}" for name, number in programs.items())
    return [f"{', '.join(facts)}.  ", f"{numbers}."]


def targets_table(targets: list[dict[str, str]]) -> list[str]:
    """Markdown."""
    lines = ["| what | target | measured | |", "|---|---|---|---|"]
    return lines + [
        f"| {t['what']} | {t['target']} | {t['measured']} | {t['verdict']} |" for t in targets
    ]


def main() -> int:
    """``python -m gpu.stage STAGE OPTIONS``: what run.py starts."""
    stage, options = sys.argv[1], json.loads(sys.argv[2])
    setting = Setting(
        options["smoke"],
        Path(options["output"]),
        options["seconds"],
        options["command"],
        options["again"],
    )
    return run_stage(stage, setting, options["machine"])


if __name__ == "__main__":
    # As the module that the stages import, not as a second copy of it.
    from gpu.stage import main

    sys.exit(main())
