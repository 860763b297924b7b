"""Everything that is owed on a GPU, stage by stage: see docs/gpu.md."""
