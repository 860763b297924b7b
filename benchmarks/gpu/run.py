"""What is owed on a GPU, in the order of its worth, each stage within minutes: docs/gpu.md

    python benchmarks/gpu/run.py                       every stage; again: what is missing
    python benchmarks/gpu/run.py correctness speed     these, by name or number
    python benchmarks/gpu/run.py --smoke               every code path without a GPU, tiny shapes
    python benchmarks/gpu/run.py --wheels              what this machine lacks, as pip commands

Stages: 1 correctness, 2 speed, 3 tuning (torch and triton alone), 4 models, 5 families, 6 vllm,
7 training. Each runs in a process of its own, and one that fails does not stop the next; finished
parts are kept, as long as device, versions and sources stay. Exit status 1: a stage failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT / "benchmarks")

from gpu.setting import environment  # noqa: E402
from gpu.stage import (  # noqa: E402
    STAGES,
    module_of,
    named,
    state_text,
    stem_of,
    write_pages,
)
from gpu.summary import write_summary  # noqa: E402
from gpu.wheels import add_wheel_options, run_wheels  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu"
# Beyond its time, for the part under way; then a stage is killed.
_GRACE = 60


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="default: all")
    parser.add_argument("--smoke", action="store_true", help="no GPU: tiny shapes, no times")
    parser.add_argument("--again", action="store_true", help="do finished parts again")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/gpu")
    parser.add_argument(
        "--minutes", type=float, default=7, help="what a stage may take (default: %(default)s)"
    )
    add_wheel_options(parser)
    options = parser.parse_args()
    if options.wheels is not None or options.assemble is not None:
        return run_wheels(parser, options)
    stages = named(parser, options.stages) or list(STAGES)
    output = options.output or (Path(tempfile.mkdtemp()) if options.smoke else RESULTS)
    machine = probe(options.smoke)
    if machine is None:
        return 2
    shared = {
        "smoke": options.smoke,
        "again": options.again,
        "output": str(output.resolve()),
        "seconds": 60 * options.minutes,
        "command": shlex.join(["python", "benchmarks/gpu/run.py", *sys.argv[1:]]),
        "machine": machine,
    }
    failed = [stage for stage in stages if not run(stage, shared)]
    path = write_summary(output)
    print(path.read_text(encoding="utf-8"))
    print(f"{path}{'; failed: ' + ', '.join(failed) if failed else ''}")
    return 1 if failed else 0


def probe(smoke: bool) -> dict[str, Any] | None:
    """What machine this is; None, after one sentence, where nothing can run."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "gpu.probe"],
        env=environment(smoke=smoke, kernels=True),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        machine: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return machine
    print(
        (done.stderr.strip().splitlines() or ["The machine cannot be asked."])[-1], file=sys.stderr
    )
    return None


def run(stage: str, shared: dict[str, Any]) -> bool:
    """Run one stage; whether it went well. Its output goes to STEM.log."""
    module, stem = module_of(stage), stem_of(stage)
    output = Path(shared["output"])
    output.mkdir(parents=True, exist_ok=True)
    page = output / f"{stem}.json"
    page.unlink(missing_ok=True)
    print(f"{stem}: {module.TITLE} ...", file=sys.stderr, flush=True)
    log = output / f"{stem}.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "gpu.stage", stage, json.dumps(shared)],
            env=environment(smoke=shared["smoke"], kernels=module.USES_KERNELS),
            cwd=ROOT,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        detail = ""
        try:
            process.wait(shared["seconds"] + _GRACE)
        except subprocess.TimeoutExpired:
            detail = "stopped at the end of its time, in the middle of a part"
        finally:
            # Whatever it started must not hold the device.
            _end(process)
    if not page.is_file() or (process.returncode not in (0, 1)):
        detail = detail or f"its process ended with {process.returncode}: {_last(log)}"
        _note_end(stage, output, shared, detail)
    data = json.loads(page.read_text(encoding="utf-8"))
    print(f"{stem}: {state_text(data)}", file=sys.stderr, flush=True)
    return data["state"] != "failed"


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _note_end(stage: str, output: Path, shared: dict[str, Any], detail: str) -> None:
    """Put into the pages of a stage whose process did not live to do so how it ended."""
    from gpu.setting import versions

    path = output / f"{stem_of(stage)}.json"
    if path.is_file():
        data = json.loads(path.read_text(encoding="utf-8"))
    else:
        empty: dict[str, Any] = {"planned": 0, "finished": 0, "kept": 0, "seconds": 0}
        empty |= {"left_out": [], "failed": {}, "targets": [], "results": {}}
        data = {
            "stage": stage,
            **empty,
            "smoke": shared["smoke"],
            "command": shared["command"],
            "machine": shared["machine"],
            "versions": versions(),
        }
    cut = detail.startswith("stopped") and data["finished"]
    data |= {"state": "unfinished" if cut else "failed", "detail": detail}
    module = module_of(stage)
    sound = {name: r for name, r in data["results"].items() if "problem" not in r}
    try:
        body = module.page(sound, shared["smoke"]) if sound else []
    except ImportError:
        body = []
    write_pages(output, stem_of(stage), data, module, body)


if __name__ == "__main__":
    sys.exit(main())
