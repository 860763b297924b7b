"""What benchmarks/kernel_speed.py and benchmarks/tune_kernels.py share."""
