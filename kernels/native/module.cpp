// mien._native: the CPU paths of mien.kernels.
#include <nanobind/nanobind.h>

NB_MODULE(_native, m) { m.doc() = "CPU paths of mien.kernels."; }
