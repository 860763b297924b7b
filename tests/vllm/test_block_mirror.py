"""The host's copy of the V2 runner's block tables names the blocks that attention sees."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from adaptvis.vllm import runner_v2
from adaptvis.vllm.versions import library_of

SIZE, PARTS = 64, 4


class Tables:
    """What vLLM's do with the blocks of a request, as each version does it."""

    def __init__(self, counts_kernel_blocks: bool) -> None:
        self.parts = PARTS if counts_kernel_blocks else 1
        self.block_sizes = [SIZE]
        self.blocks_per_kv_block = [PARTS]
        self.block_tables = [SimpleNamespace(gpu=np.zeros((2, 6 * self.parts), dtype=np.int32))]
        self.num_blocks = SimpleNamespace(np=np.zeros((1, 2), dtype=np.int32))

    def append_block_ids(self, req_index: int, new_block_ids, overwrite: bool) -> None:
        start = 0 if overwrite else self.num_blocks.np[0, req_index]
        ids = [b * self.parts + part for b in new_block_ids[0] for part in range(self.parts)]
        self.block_tables[0].gpu[req_index, start : start + len(ids)] = ids
        self.num_blocks.np[0, req_index] = start + len(ids)


@pytest.mark.parametrize("version", ["0.26.0", "0.31.0", "0.32.0", "0.33.0"])
def test_slots_are_those_of_the_blocks_that_were_appended(version, monkeypatch) -> None:
    library = library_of(version)
    monkeypatch.setattr(runner_v2, "library", lambda: library)
    tables = Tables(library.counts_kernel_blocks())
    group = SimpleNamespace(kernel_block_size=SIZE // PARTS, kernel_block_stride=PARTS)
    mirror = runner_v2.BlockMirror(SimpleNamespace(block_tables=tables, attn_groups=[[group]]))
    tables.append_block_ids(1, ([9, 9],), overwrite=True)
    tables.append_block_ids(1, ([7, 3],), overwrite=True)
    tables.append_block_ids(0, ([5],), overwrite=True)
    tables.append_block_ids(1, ([8],), overwrite=False)
    first, second = (mirror.blocks(np.array([index]))[0] for index in (1, 0))
    positions = np.arange(3 * SIZE)
    expected = np.array([7, 3, 8])[positions // SIZE] * SIZE + positions % SIZE
    assert first.size == SIZE // PARTS
    assert first.slots(0, positions).tolist() == expected.tolist()
    assert second.slots(0, positions[:SIZE]).tolist() == (5 * SIZE + positions[:SIZE]).tolist()
