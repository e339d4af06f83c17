"""The Triton paths of the kernels: one operation per file, under the name it has one folder up. Needs torch and triton."""
