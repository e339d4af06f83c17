"""Measurements: the engine against other ways, kernels against memory, networks against their teachers."""
