"""How a vLLM's source is described, and compared with the versions that are known."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from adaptvis.vllm import known_versions
from adaptvis.vllm.known_versions import FOLDER, compare
from adaptvis.vllm.seams import ABSENT, Seam, describe
from adaptvis.vllm.versions import library_of

_SOURCE = '''
class Runner(Base):
    rows: int
    size = 3

    def __init__(self, given) -> None:
        self.state: State | None = None
        self.first, self.second = given

    @override
    async def run(
        self,
        batch: list[int],
        /,
        *others: int,
        dummy: bool = False,
        **options: Any,
    ) -> None:
        """What it does."""
        # Why.
        return await self.work(batch)

    @property
    def width(self) -> int:
        other = 1
        return other


def run(batch, *, fast):
    return batch
'''


def described(tmp_path, source: str, **of_seam) -> str:
    (tmp_path / "worker").mkdir(exist_ok=True)
    file = tmp_path / "worker" / f"runner{len(list((tmp_path / 'worker').iterdir()))}.py"
    file.write_text(source)
    places = tuple(one.replace("MODULE", f"vllm.worker.{file.stem}") for one in of_seam["places"])
    return describe(Seam("seam", **(of_seam | {"places": places})), tmp_path)


def test_arguments_are_those_of_the_function_and_defaults_are_marked(tmp_path) -> None:
    places = ("MODULE:Runner.run",)
    found = described(tmp_path, _SOURCE, places=places)
    assert found == "(self, batch, *others, dummy=, **options)"
    assert described(tmp_path, _SOURCE, places=("MODULE:run",)) == "(batch, *, fast)"


def test_bodies_differ_by_their_code_and_not_by_comments(tmp_path) -> None:
    seam = {"places": ("MODULE:Runner.run",), "body": True}
    found = described(tmp_path, _SOURCE, **seam)
    same = _SOURCE.replace("# Why.", "# Because.").replace("What it does", "Documentation")
    assert described(tmp_path, same, **seam) == found
    # The function behind it is not part of it.
    assert described(tmp_path, _SOURCE.replace("other = 1", "other = 2"), **seam) == found
    changed = _SOURCE.replace("self.work(batch)", "self.work(batch[1:])")
    assert described(tmp_path, changed, **seam) != found


def test_attributes_are_fields_and_what_methods_assign_and_not_their_variables(tmp_path) -> None:
    names = ("rows", "size", "state", "first", "second", "width", "other", "given", "batch")
    found = described(tmp_path, _SOURCE, places=("MODULE:Runner",), names=names)
    assert found == "rows, size, state, first, second, width"


def test_what_has_moved_says_where_it_is(tmp_path) -> None:
    seam = {"places": ("MODULE:Gone.run", "MODULE:Runner.run")}
    assert described(tmp_path, _SOURCE, **seam).endswith(
        ":Runner.run (self, batch, *others, dummy=, **options)"
    )
    assert described(tmp_path, _SOURCE, places=("vllm.nowhere:run",)) == ABSENT


def test_an_unknown_version_names_what_differs_from_the_nearest() -> None:
    table = json.loads((FOLDER / "0.31.0.json").read_text())["seams"]
    # Whatever it calls itself.
    same = compare("0.31.4", table)
    assert (same.known, same.like, same.tested, same.reason) == (True, "0.31.0", True, "")
    other = table | {
        "AsyncLLM.generate": "(self, request)",
        "V1 runner's execute_model": table["V1 runner's execute_model"][:-1] + "x",
        "extract_layer_index": known_versions.ABSENT,
        "Worker.load_model": "(self)",
    }
    found = compare("0.40.0", other)
    assert not found.known
    assert found.like == "0.31.0"
    assert "AsyncLLM.generate has (self, request), expected (self, prompt" in found.reason
    assert "V1 runner's execute_model does something else" in "; ".join(found.differs)
    assert "extract_layer_index is missing" in "; ".join(found.differs)
    assert "and 1 more" in found.reason
    assert f"({', '.join(known_versions.known_versions())})" in found.reason


def test_a_version_that_was_only_read_says_so() -> None:
    for version in known_versions.known_versions(tested=False):
        table = json.loads((FOLDER / f"{version}.json").read_text())["seams"]
        found = compare(version, table)
        assert (found.known, found.like, found.tested) == (True, version, False)


def test_every_table_has_every_seam() -> None:
    names = {seam.name for seam in known_versions.SEAMS}
    for version in known_versions.known_versions():
        table = json.loads((FOLDER / f"{version}.json").read_text())["seams"]
        assert table.keys() == names


def tables(**attributes):
    return SimpleNamespace(block_tables=SimpleNamespace(block_sizes=[64, 16], **attributes))


def test_the_blocks_that_attention_sees_are_found_in_each_version() -> None:
    def group(size, stride=0):
        return SimpleNamespace(kernel_block_size=size, kernel_block_stride=stride)

    older = tables(blocks_per_kv_block=[4, 1])
    newer = tables()
    newer.attn_groups = [[group(16, 4), group(16)], [group(None)]]
    for version in ("0.26.0", "0.28.0", "0.30.0", "0.31.0"):
        assert library_of(version).kernel_blocks(older) == [4, 1]
        assert library_of(version).counts_kernel_blocks()
    for version in ("0.32.0", "0.33.0"):
        assert library_of(version).kernel_blocks(newer) == [4, 1]
        assert not library_of(version).counts_kernel_blocks()
    newer.attn_groups[0][0] = group(16, 8)
    with pytest.raises(known_versions.UnsupportedError, match="--block-size 16"):
        library_of("0.32.0").kernel_blocks(newer)
