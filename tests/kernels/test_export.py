"""The exported repository: complete, self-contained, and loaded by the library ``kernels``."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

KERNELS = Path(__file__).parents[2] / "kernels"
VARIANTS = ("torch-cuda", "torch-rocm")

# Runs one kernel of a loaded module against its reference, where our own packages do not exist.
SCRIPT = """
import importlib.util, json, sys
from pathlib import Path

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("adaptvis", "adaptvis_kernels"):
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Refuse())
variant, how = Path(sys.argv[1]), sys.argv[2]
if how == "current":
    import kernels
    module = kernels.get_local_kernel(variant)
    assert module.__name__ == json.loads((variant / "metadata.json").read_text())["id"]
else:
    path = variant / "adaptvis_kernels" / "__init__.py"
    spec = importlib.util.spec_from_file_location("adaptvis_kernels_0123abcd", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

import torch
generator = torch.Generator().manual_seed(0)
query = torch.randn(1, 4, 2, 32, generator=generator)
key = torch.randn(1, 2, 50, 32, generator=generator)
positions = torch.arange(5, 35)[None]
got = module.image_attention(query, key, image_positions=positions)
want = module.image_attention_reference(query, key, image_positions=positions)
torch.testing.assert_close(tuple(got), tuple(want))
print(json.dumps(sorted(module.__all__)))
"""


def _run(*arguments: str | Path) -> str:
    result = subprocess.run(
        [sys.executable, "-I", "-B", *map(str, arguments)],
        env=os.environ | {"TRITON_INTERPRET": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def _exporter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("export_kernels", KERNELS / "export.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("hub") / "adaptvis-kernels"
    _run(KERNELS / "export.py", output)
    return output


def _files(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _metadata(variant: Path) -> dict[str, Any]:
    return json.loads((variant / "metadata.json").read_text())


@pytest.mark.parametrize(
    ("variant", "how"), [("torch-cuda", "current"), ("torch-rocm", "before 0.11.2")]
)
def test_the_library_loads_a_variant_and_its_kernels_run(
    exported: Path, variant: str, how: str
) -> None:
    package = ast.parse((KERNELS / "adaptvis_kernels" / "__init__.py").read_text())
    wanted = next(
        ast.literal_eval(node.value)
        for node in package.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert json.loads(_run("-c", SCRIPT, exported / "build" / variant, how)) == sorted(wanted)


def test_the_library_reads_the_metadata_and_agrees_with_the_digests(exported: Path) -> None:
    rust = pytest.importorskip("kernels._rust")
    for variant in VARIANTS:
        folder = exported / "build" / variant
        metadata = rust.Metadata.read_from_file(folder / "metadata.json")
        assert str(metadata.name) == "adaptvis-kernels"
        assert metadata.id.isidentifier()
        assert metadata.backend.backend_type == rust.Backend.from_str(variant.split("-")[1])
        actual = rust.Digest.hash_variant(metadata.digest.algorithm, folder)
        metadata.digest.validate(actual)
        assert metadata.digest.files == actual.files


def test_the_library_lists_both_backends(exported: Path) -> None:
    pytest.importorskip("kernels")
    script = "import sys; from kernels.cli import main; sys.argv[0] = 'kernels'; main()"
    listed = json.loads(_run("-c", script, "info", exported, "--json"))
    assert listed["name"] == "adaptvis-kernels"
    assert listed["license"] == "apache-2.0"
    assert listed["backends"] == ["cuda", "rocm"]


def test_kernel_builder_accepts_the_source_tree(exported: Path) -> None:
    rust = pytest.importorskip("kernels._rust")
    backends = rust.Build.open(exported).general.backends
    assert {str(backend).lower() for backend in backends} == {"cuda", "rocm"}
    source = _files(exported / "torch-ext" / "adaptvis_kernels")
    built = _files(exported / "build" / "torch-cuda")
    assert set(built) - set(source) == {"metadata.json", "adaptvis_kernels/__init__.py"}


def test_only_the_standard_library_torch_and_triton_are_imported(exported: Path) -> None:
    allowed = sys.stdlib_module_names | {"torch", "triton"}
    sources = list(exported.rglob("*.py"))
    assert len(sources) > 60
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] in allowed, f"{source.name} imports {name}"


def test_everything_of_the_package_is_there_and_no_caches(exported: Path) -> None:
    package = {
        name: content
        for name, content in _files(KERNELS / "adaptvis_kernels").items()
        if name.endswith((".py", ".json"))
    }
    assert any(name.endswith("configs/default.json") for name in package)
    for variant in VARIANTS:
        built = _files(exported / "build" / variant)
        assert {name: built.get(name) for name in package} == package
    everything = _files(exported)
    assert not [name for name in everything if "__pycache__" in name or name.endswith(".pyc")]
    assert everything["LICENSE"] == (KERNELS.parent / "LICENSE").read_bytes()


def test_links_of_the_card_lead_to_files(exported: Path) -> None:
    for folder in (KERNELS, exported):
        card = (folder / "README.md").read_text()
        assert card.startswith("---\nlicense: apache-2.0\n")
        links = [part.split(")")[0] for part in card.split("](")[1:]]
        local = [link for link in links if "://" not in link]
        assert len(local) >= 5
        for link in local:
            assert (folder / link).is_file(), link


def test_equal_sources_give_equal_exports_with_one_name_per_backend(
    exported: Path, tmp_path: Path
) -> None:
    _run(KERNELS / "export.py", tmp_path)
    assert _files(tmp_path) == _files(exported)
    names = {_metadata(exported / "build" / variant)["id"] for variant in VARIANTS}
    assert len(names) == 2


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    assert _exporter().main([str(tmp_path)]) == 1
    assert "exists and is not an empty folder" in capsys.readouterr().err
    assert _files(tmp_path) == {"mine": b"mine"}


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exporter = _exporter()

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(exporter, "_assemble", fail)
    with pytest.raises(OSError, match="disk full"):
        exporter.export(tmp_path / "output")
    assert not list(tmp_path.iterdir())
