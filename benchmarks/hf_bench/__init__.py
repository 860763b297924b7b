"""What the benchmarks of transformers models share."""
