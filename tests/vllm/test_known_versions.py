"""A vLLM that is not known is not steered, says so, and answers as if adaptvis were not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import vllm

from adaptvis.vllm import plugin
from adaptvis.vllm.known_versions import FOLDER, installed_version, seams_of

from .server import PLAIN_VLLM, Server
from .tiny_llava import write_random_llava

# Another plugin, loaded first, that does not say what it wraps.
_PLANTED = """
from vllm.v1.engine.input_processor import InputProcessor

original = InputProcessor.process_inputs

def register():
    def process_inputs(self, request_id, prompt, params, *args, more=None, **kwargs):
        return original(self, request_id, prompt, params, *args, **kwargs)
    if InputProcessor.process_inputs is original:
        InputProcessor.process_inputs = process_inputs
"""
_WHAT_DIFFERS = "InputProcessor.process_inputs was replaced by planted"

_REFUSED_OFFLINE = """
from vllm import LLM, SamplingParams
from vllm.exceptions import VLLMValidationError
from types import SimpleNamespace
from vllm import PoolingParams
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor.abstract import Executor
from adaptvis.errors import UnsupportedError
from adaptvis.vllm import plugin
from vllm.plugins import load_general_plugins

load_general_plugins()
steered = SamplingParams(extra_args={"adaptvis_alpha": 2.0})
for given in (steered, [SamplingParams(), steered]):
    try:
        LLM.__new__(LLM).generate(["a", "b"], given)
    except VLLMValidationError as error:
        print("REFUSED", error)
try:
    LLM(MODEL, dtype="float32", max_model_len=128, enforce_eager=True,
        additional_config={"adaptvis": {"method": "scalingvis", "alpha": 2.0}})
except UnsupportedError as error:
    print("NOT STARTED", error)
try:
    embedding = PoolingParams(extra_kwargs={"adaptvis_alpha": 2.0})
    LLMEngine.add_request(None, "id", "a", embedding)
except VLLMValidationError as error:
    print("REFUSED", error)
config = SimpleNamespace(additional_config={"adaptvis": {"method": "scalingvis", "alpha": 2.0}})
for part in (EngineCore, Executor):
    try:
        part.__init__(None, config, None, False)
    except UnsupportedError as error:
        print("NOT STARTED", error)
import os
os.environ["ADAPTVIS_STRICT"] = "1"
for untested in "01":
    os.environ["ADAPTVIS_UNTESTED"] = untested
    try:
        plugin.register()
    except UnsupportedError as error:
        print("STRICT", error)
"""

_STEERED_ALL_THE_SAME = """
from PIL import Image
from vllm import LLM, SamplingParams
from adaptvis import ScalingVis
from adaptvis.vllm import decisions, extra_args

if __name__ == "__main__":
    llm = LLM(MODEL, dtype="float32", max_model_len=128, enforce_eager=True, max_num_seqs=2)
    prompt = {"prompt": "<image>what is", "multi_modal_data": {"image": Image.new("RGB", (64, 64))}}
    params = SamplingParams(max_tokens=1, extra_args=extra_args(ScalingVis(alpha=2.0)))
    output = llm.generate([prompt], [params], use_tqdm=False)[0]
    print("DECISION", decisions(llm)[output.request_id])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random_llava(tmp_path_factory.mktemp("models") / "llava")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """An environment in which another plugin has changed what ours counts on."""
    place = tmp_path_factory.mktemp("planted")
    (place / "planted.py").write_text(_PLANTED)
    metadata = place / "planted-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nplanted = planted:register\n"
    )
    path = os.pathsep.join(filter(None, (str(place), os.environ.get("PYTHONPATH", ""))))
    return {"PYTHONPATH": path, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def ran(script: str, folder: Path, environment: dict[str, str], place: Path) -> str:
    file = place / "script.py"
    file.write_text(f"MODEL = {str(folder)!r}\n{script}")
    done = subprocess.run(
        [sys.executable, str(file)],
        env=os.environ | {"VLLM_LOGGING_LEVEL": "INFO"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_the_table_of_the_installed_version_is_current() -> None:
    table = json.loads((FOLDER / f"{installed_version().partition('+')[0]}.json").read_text())
    assert table["seams"] == seams_of(Path(vllm.__file__).parent)
    verdict = plugin.check_vllm()
    assert verdict.known
    assert verdict.tested


def test_front_ends_do_not_import_the_runners_for_it() -> None:
    program = (
        "import sys; from vllm.plugins import load_general_plugins; load_general_plugins()\n"
        "print([name for name in sys.modules if 'model_runner' in name and name[:4] == 'vllm'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_unsteered_answers_go_on_and_steered_requests_are_refused_with_what_differs(
    planted, folder, tmp_path, monkeypatch
) -> None:
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    options = ("--dtype", "float32", "--max-model-len", "128", "--enforce-eager")
    command = (*PLAIN_VLLM, "--model", str(folder), *options)
    body = {"model": str(folder), "prompt": "what is", "max_tokens": 2, "temperature": 0}
    with Server(*command, log=tmp_path / "log") as server:

        def answered(**fields):
            return httpx.post(f"{server.url}/v1/completions", json=body | fields, timeout=60)

        plain = answered()
        assert plain.status_code == 200
        assert plain.json()["choices"][0]["text"]
        steering = {"adaptvis_alpha": 2.0}
        for stream in (False, True):
            refused = answered(vllm_xargs=steering, stream=stream)
            assert refused.status_code == 400
            assert _WHAT_DIFFERS in refused.text
            assert "ADAPTVIS_UNTESTED=1" in refused.text
        # vLLM passes over what it does not know.
        assert answered(**steering).status_code == 400
        off = answered(vllm_xargs={"adaptvis": "off"})
        assert off.json()["choices"] == plain.json()["choices"]
    assert server.log.read_text().count("adaptvis steers nothing here") == 1


def test_defaults_stop_the_start_and_offline_requests_are_refused(
    planted, folder, tmp_path
) -> None:
    printed = ran(_REFUSED_OFFLINE, folder, planted, tmp_path)
    lines = [line for line in printed.splitlines() if line.split(" ")[0].isupper()]
    kinds = ["REFUSED", "REFUSED", "NOT", "REFUSED", "NOT", "NOT", "STRICT", "STRICT"]
    found = [line for line in lines if line.split(" ")[0] in kinds]
    assert [line.split(" ")[0] for line in found] == kinds
    assert all(_WHAT_DIFFERS in line for line in found)


def test_an_unknown_vllm_is_steered_on_request_and_the_log_says_what_is_not_verified(
    planted, folder, tmp_path
) -> None:
    untested = planted | {"ADAPTVIS_UNTESTED": "1"}
    printed = ran(_STEERED_ALL_THE_SAME, folder, untested, tmp_path)
    assert "alpha=2.0, applied=True" in printed
    assert f"could not verify: {_WHAT_DIFFERS}" in printed
