"""`adaptvis serve` up to the moment where vLLM takes over."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

import pytest
from cli.conftest import Adaptvis, assert_one_sentence

from adaptvis.cli.models import embedded_models
from adaptvis.presets import PRESETS, load_model_presets
from adaptvis.vllm import known_versions, plugin
from adaptvis.vllm.known_versions import Verdict
from adaptvis.vllm.parameters import read_server

MODEL = "tiny-2ds-shortcut-seed1"
KNOWN = Verdict("0.32.0", "0.32.0", True)
FOLDER = embedded_models()[MODEL]


class Started(NamedTuple):
    """What vLLM would have been started with."""

    arguments: list[str]
    environment: Mapping[str, str]
    notes: str

    def value(self, option: str) -> str:
        assert self.arguments.count(option) == 1, self.arguments
        return self.arguments[self.arguments.index(option) + 1]

    @property
    def steering(self) -> object:
        return json.loads(self.value("--additional-config"))["adaptvis"]


Start = Callable[..., Started]


@pytest.fixture
def start(adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Run `adaptvis serve ARGUMENTS` where vLLM 0.32 is installed, and stop before it starts."""
    started: list[tuple[list[str], Mapping[str, str]]] = []

    def become(program: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        assert program == command[0] == sys.executable
        started.append((list(command[1:]), environment))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", become)
    monkeypatch.setattr(plugin, "verdict", lambda: KNOWN)
    monkeypatch.setattr(plugin, "is_cpu_build", lambda: False)
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.delenv(plugin.DISABLE, raising=False)

    def run(*arguments: object) -> Started:
        result = adaptvis("serve", *arguments)
        assert result.code == 0, result
        return Started(*started.pop(), result.err)

    return run


def test_help_says_that_other_options_go_to_vllm(adaptvis: Adaptvis) -> None:
    text = adaptvis("serve", "--help").out
    for expected in ("Every option that is not listed here goes to vLLM", "--alpha", "vllm_xargs"):
        assert expected in text
    assert "serve" in adaptvis("--help").out


def test_without_options_the_server_is_vllms_own_on_loopback(start: Start) -> None:
    started = start(MODEL)
    assert "vllm.entrypoints.openai.api_server" in started.arguments
    assert started.value("--model") == str(FOLDER)
    assert started.value("--served-model-name") == MODEL
    assert started.value("--host") == "127.0.0.1"
    assert "--additional-config" not in started.arguments
    assert "VLLM_PLUGINS" not in started.environment
    assert started.notes == ""


def test_options_of_vllm_go_through_in_order(start: Start) -> None:
    given = ["--port", "8001", "-tp", "2", "--host=0.0.0.0", "--enforce-eager", "-O3"]
    started = start(MODEL, *given[:3], "--alpha", 2, *given[3:])
    rest = started.arguments
    assert [argument for argument in rest if argument in given] == given
    assert "--host" not in rest, "the user chose another address"
    assert started.steering == [{"rows": "last_prompt_token", "method": "scalingvis", "alpha": 2.0}]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            ["--alpha", "2", "--layers", "1-3", "--rows", "generated", "--heads", "0,2"],
            {
                "method": "scalingvis",
                "alpha": 2.0,
                "layers": [1, 2, 3],
                "rows": "generated",
                "heads": [0, 2],
            },
        ),
        (
            ["--alpha-low", "2"],
            {"method": "adaptvis", "alpha_low": 2.0, "alpha_high": 1.5, "threshold": 0.4},
        ),
        (["--steering", '{"method": "scalingvis", "alpha": 3}'], {"alpha": 3.0}),
        (["--steering", "adaptvis-vsr"], PRESETS["adaptvis-vsr"].to_dict()),
        (["--steering", "scalingvis"], load_model_presets(FOLDER)["scalingvis"].to_dict()),
    ],
)
def test_steering_is_told_in_every_way(
    start: Start, options: list[str], expected: dict[str, object]
) -> None:
    started = start(MODEL, *options)
    [steering] = started.steering  # type: ignore[misc]
    assert expected.items() <= steering.items()
    assert json.dumps(steering) in started.notes
    additional = json.loads(started.value("--additional-config"))
    assert read_server(additional).attention is not None


def test_steering_from_a_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("method: scalingvis\nalpha: 4\n")
    [steering] = start(MODEL, "--steering", "mine.yaml").steering  # type: ignore[misc]
    assert steering["alpha"] == 4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--norm-rescale", "text"], {"target": "text", "clip": None}),
        (["--norm-rescale", "0.83", "--norm-clip", "text"], {"target": 0.83, "clip": "text"}),
        (["--norm-clip", "1.22"], {"target": None, "clip": 1.22}),
    ],
)
def test_norms_are_rescaled_with_and_without_steering(
    start: Start, options: list[str], expected: dict[str, object]
) -> None:
    rescale = {"method": "norm_rescale", **expected}
    assert start(MODEL, *options).steering == [rescale]
    assert start(MODEL, *options, "--alpha", 2).steering[1] == rescale  # type: ignore[index]


def test_additional_config_of_the_user_stays(start: Start, tmp_path: Path) -> None:
    for given in (
        ["--additional-config", '{"other": {"a": 1}}'],
        ['--additional_config={"other": {"a": 1}}'],
    ):
        merged = json.loads(start(MODEL, *given, "--alpha", 2).value("--additional-config"))
        assert merged["other"] == {"a": 1}
        assert read_server(merged).attention is not None
    (tmp_path / "vllm.yaml").write_text("additional_config:\n  other: 1\nhost: 0.0.0.0\n")
    started = start(MODEL, "--config", "vllm.yaml", "--alpha", 2)
    assert json.loads(started.value("--additional-config"))["other"] == 1
    assert "--host" not in started.arguments


def test_dotted_options_go_through_where_nothing_is_added(start: Start) -> None:
    given = ["--additional-config.adaptvis.method", "scalingvis"]
    assert start(MODEL, *given).arguments[-2:] == given


def test_on_a_cpu_the_cache_leaves_memory_to_others(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "VLLM_CPU_KVCACHE_SPACE"
    assert name not in start(MODEL).environment
    monkeypatch.setattr(plugin, "is_cpu_build", lambda: True)
    assert start(MODEL).environment[name] == "4"
    for chosen in (["--gpu-memory-utilization", "0.5"], ["--kv_cache_memory_bytes=1000"]):
        assert name not in start(MODEL, *chosen).environment
    monkeypatch.setenv(name, "9")
    assert start(MODEL).environment[name] == "9"


def test_decisions_allow_the_endpoint_and_keep_every_other_plugin(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"adaptvis", "adaptvis_decisions"}
    names = {entry.name for entry in entry_points(group="vllm.general_plugins")}
    loaded = start(MODEL, "--decisions").environment["VLLM_PLUGINS"].split(",")
    assert own | names <= set(loaded)
    monkeypatch.setenv("VLLM_PLUGINS", "mine")
    assert start(MODEL, "--decisions").environment["VLLM_PLUGINS"] == (
        "mine,adaptvis,adaptvis_decisions"
    )
    assert start(MODEL).environment["VLLM_PLUGINS"] == "mine,adaptvis"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port", "8001", MODEL], ["model must come first"]),
        (["no-such-model"], ["no-such-model", MODEL]),
        ([MODEL, "another"], ["One model", "'another'"]),
        ([MODEL, "--alpha", "-1"], ["alpha", "from 0 to 1000"]),
        ([MODEL, "--alpha", "1", "--threshold", "0.5"], ["--alpha ", "--threshold"]),
        ([MODEL, "--rows", "generated"], ["--rows", "--alpha-low"]),
        ([MODEL, "--alpha", "1", "--rows", "all"], ["rows", "text_after_image"]),
        ([MODEL, "--alpha", "2", "--layers", "1-9"], ["4 layers", "got 9"]),
        ([MODEL, "--alpha", "2", "--heads", "7"], ["4 heads", "got 7"]),
        ([MODEL, "--steering", "adaptvis-vsr", "--alpha", "1"], ["--steering", "--alpha"]),
        ([MODEL, "--steering", "adaptvis-vrs"], ["did you mean 'adaptvis-vsr'?"]),
        ([MODEL, "--steering", "{"], ["not valid JSON"]),
        (
            [MODEL, "--alpha", "2", "--additional-config", '{"a": 1, "a": 2}'],
            ["the key 'a' is given twice"],
        ),
        ([MODEL, "--steering", "none.json"], ["none.json"]),
        ([MODEL, "--steering", '{"method": "norm_rescale"}', "--norm-clip", "1"], ["norm_rescale"]),
        ([MODEL, "--norm-rescale", "big"], ["--norm-rescale", "'big'"]),
        ([MODEL, "--additional-config", "{"], ["--additional-config", "JSON"]),
        ([MODEL, "--additional-config", "[1]"], ["--additional-config", "object"]),
        (
            [MODEL, "--additional-config", '{"adaptvis": {"method": "scalingvis"}}'],
            ["alpha", "required"],
        ),
        ([MODEL, "--additional-config", '{"adaptviz": {}}'], ["'adaptviz'", "steer nothing"]),
        (
            [MODEL, "--additional-config", '{"adaptvis": "off"}', "--alpha", "2"],
            ["--additional-config", "either"],
        ),
        (
            [MODEL, "--additional-config.a.b", "1", "--alpha", "2"],
            ["--additional-config.a.b", "JSON"],
        ),
        ([MODEL, "--api-server-count", "2"], ["--api-server-count", "vllm serve"]),
        ([MODEL, "-asc", "2"], ["-asc", "vllm serve"]),
        ([MODEL, "--model", "another", "--alpha", "2"], ["One model", "--model"]),
    ],
)
def test_mistakes_are_told_before_vllm_starts(
    adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch, options: list[str], words: list[str]
) -> None:
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("vLLM was started"))
    monkeypatch.setattr(plugin, "verdict", lambda: KNOWN)
    assert_one_sentence(adaptvis("serve", *options), *words)


def test_a_configuration_file_is_looked_through_for_them_too(
    adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("vLLM was started"))
    (tmp_path / "server.yaml").write_text("api-server-count: 2\n")
    result = adaptvis("serve", MODEL, "--config", "server.yaml")
    assert_one_sentence(result, "--api-server-count", "vllm serve")


def test_an_untested_vllm_is_refused(adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("vLLM was started"))
    unknown = Verdict("0.99.1", "0.33.0", False, ("AsyncLLM.generate is missing",))
    monkeypatch.setattr(plugin, "verdict", lambda: unknown)
    words = ["0.99.1", "AsyncLLM.generate is missing", "tested", "ADAPTVIS_UNTESTED=1"]
    assert_one_sentence(adaptvis("serve", MODEL), *words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTVIS_UNTESTED", "1")
        patch.setattr(os, "execve", lambda *_: sys.exit(0))
        assert adaptvis("serve", MODEL).code == 0


def test_a_missing_vllm_is_refused(adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise known_versions.PackageNotFoundError(name)

    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("vLLM was started"))
    monkeypatch.setattr(known_versions, "version", missing)
    assert_one_sentence(adaptvis("serve", MODEL), "not installed", "pip install")


def test_steering_that_is_switched_off_is_refused(
    start: Start, adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(plugin.DISABLE, "1")
    assert_one_sentence(adaptvis("serve", MODEL, "--alpha", 2), plugin.DISABLE, "unset")
    assert "--additional-config" not in start(MODEL).arguments


def test_defaults_behind_the_rust_front_end_are_refused(
    start: Start, adaptvis: Adaptvis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    assert_one_sentence(adaptvis("serve", MODEL, "--alpha", 2), "VLLM_USE_RUST_FRONTEND", "unset")
    # Workers do this one.
    assert "--additional-config" in start(MODEL, "--norm-rescale", 1).arguments
