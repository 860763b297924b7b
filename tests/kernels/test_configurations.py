"""Which configuration serves which call, and that a compiled case stands for each of them."""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path

import adaptvis_kernels
import pytest
from adaptvis_kernels import configs
from adaptvis_kernels.compile import OPS
from adaptvis_kernels.configs import RELATIVES, configuration, is_supported, table_of
from adaptvis_kernels.launching import record_launches

_FILES = sorted((Path(adaptvis_kernels.__file__).parent / "ops").glob("*/configs/*.json"))
_ATTENTION = ("steered_paged_decode", "steered_prefill")


@cache
def _keys_of_cases(op: str) -> frozenset[str]:
    """The keys that the launchers of ``op`` ask for in its compiled cases."""
    package = f"adaptvis_kernels.ops.{op}"
    keys: set[str] = set()

    def spy(name: str, key: str, architecture: str) -> dict[str, int]:
        keys.add(key)
        return configuration(name, key, architecture)

    with pytest.MonkeyPatch.context() as patch:
        for path in (Path(adaptvis_kernels.__file__).parent / "ops" / op).glob("*.py"):
            module = importlib.import_module(f"{package}.{path.stem}")
            if hasattr(module, "configuration"):
                patch.setattr(module, "configuration", spy)
        for _, run in importlib.import_module(f"{package}.cases").compile_cases():
            with record_launches("sm_90"):
                run()
    return frozenset(keys)


@pytest.mark.parametrize("path", _FILES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_case_compiles_every_configuration_of_every_file(path: Path) -> None:
    data = json.loads(path.read_text())
    assert data["source"]
    assert data["configurations"].keys() <= _keys_of_cases(path.parts[-3])


@pytest.mark.parametrize("op", OPS)
def test_the_default_has_every_key_that_a_case_asks_for(op: str) -> None:
    assert table_of(op, "default").keys() == _keys_of_cases(op)


@pytest.mark.parametrize("op", _ATTENTION)
def test_attention_has_a_configuration_for_masks_beside_each_without(op: str) -> None:
    keys = table_of(op, "default").keys()
    plain = {key for key in keys if not key.endswith("/masked")}
    assert keys == plain | {f"{key}/masked" for key in plain}


def test_an_architecture_takes_its_own_file_then_a_relatives_then_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = {
        "sm_120": {"own": {"BLOCK_M": 1}},
        "sm_89": {"own": {"BLOCK_M": 2}, "near": {"BLOCK_M": 2}},
        "default": {key: {"BLOCK_M": 3} for key in ("own", "near", "far")},
    }
    monkeypatch.setattr(configs, "table_of", lambda op, name: tables.get(name, {}))
    found = configuration.__wrapped__
    assert found("op", "own", "sm_120") == {"BLOCK_M": 1}
    assert found("op", "near", "sm_120") == {"BLOCK_M": 2}
    assert found("op", "far", "sm_120") == {"BLOCK_M": 3}
    assert found("op", "near", "sm_90") == {"BLOCK_M": 3}
    with pytest.raises(KeyError, match="no configuration of 'op' for 'none' on 'sm_120'"):
        found("op", "none", "sm_120")


def test_architectures_are_served_like_one_that_is_compiled_for() -> None:
    for name, relative in RELATIVES.items():
        assert is_supported(name)
        assert is_supported(relative)
        assert relative not in RELATIVES
    for name in ("sm_75", "sm_70", "gfx908", "gfx1100", "gfx950", "interpreter"):
        assert not is_supported(name)
