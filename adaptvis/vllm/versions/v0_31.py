"""vLLM 0.31."""

from __future__ import annotations

from typing import Any

from adaptvis.vllm.versions.v0_32 import V0_32

__all__ = ["V0_31"]


class V0_31(V0_32):
    """A V2 runner's block tables hold the blocks that attention sees."""

    def offline_requests(self) -> Any:
        from vllm.entrypoints.offline_utils import OfflineInferenceMixin

        return OfflineInferenceMixin

    def kernel_blocks(self, runner: Any) -> list[int]:
        return list(runner.block_tables.blocks_per_kv_block)

    def counts_kernel_blocks(self) -> bool:
        return True
