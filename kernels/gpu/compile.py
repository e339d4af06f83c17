"""Compile a kernel for a GPU that is not here, and read off what it takes there: registers, spills, shared memory.

A process that compiles must not have TRITON_INTERPRET set when it imports the kernel. A PTX version that is too low for a
target aborts the process inside LLVM, so a test compiles in a process of its own.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

import mien.kernels.gpu
from mien.kernels.gpu.specialisation import Specialisation

PTX_VERSION = 87
"""The one that every ptxas since CUDA 12.8 reads and that knows every target from sm_80 to sm_120."""

SHARED_LIMIT_BYTES = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
"""Of one thread block, by compute capability."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """What one form of a kernel takes on one target.

    registers: of a thread. spill_bytes: written and read by a thread because registers ran out. stack_bytes: of a thread.
    shared_bytes: of a thread block. scratch_bytes: global memory that the launcher would have to allocate.
    """

    kernel: str
    label: str
    capability: int
    num_warps: int
    registers: int
    spill_bytes: int
    stack_bytes: int
    shared_bytes: int
    scratch_bytes: int
    ptx: str


def kernel_files() -> list[str]:
    """Names of the files of kernels/gpu that name SPECIALISATIONS; the others hold what kernels share."""
    names = sorted(module.name for module in pkgutil.iter_modules(mien.kernels.gpu.__path__))
    return [name for name in names if specialisations(name)]


def specialisations(file: str) -> tuple[Specialisation, ...]:
    """Every compiled form that a file of kernels/gpu names."""
    found: tuple[Specialisation, ...] = getattr(
        importlib.import_module(f"mien.kernels.gpu.{file}"), "SPECIALISATIONS", ()
    )
    return found


def forms(
    files: Iterable[str], capabilities: Collection[int], *, quick: bool = False
) -> Iterator[tuple[str, Specialisation, int]]:
    """File, form and capability of all that the files of kernels/gpu are compiled to.

    quick: without the slow ones, and each form for one of its capabilities only, in turns, but the first of a kernel for all.
    """
    for file in files:
        met = set()
        for turn, form in enumerate(form for form in specialisations(file) if not (quick and form.slow)):
            in_turn = {form.capabilities[turn % len(form.capabilities)]}
            wanted = in_turn if quick and form.kernel in met else form.capabilities
            met.add(form.kernel)
            for capability in form.capabilities:
                if capability in wanted and capability in capabilities:
                    yield file, form, capability


def compile_ahead(specialisation: Specialisation, capability: int) -> Compiled:
    """Compile one form for a compute capability such as 90, and assemble its PTX once more to read what it takes.

    Raises ValueError where the kernel is interpreted, where its arguments are not those of the specialisation, or where
    ptxas refuses the PTX.
    """
    kernel = specialisation.kernel
    if not isinstance(kernel, JITFunction):
        raise ValueError(f"{kernel} is interpreted; compile in a process without TRITON_INTERPRET")
    target = GPUTarget("cuda", capability, 32)
    options = {
        "num_warps": specialisation.num_warps,
        "num_stages": specialisation.num_stages,
        "ptx_version": PTX_VERSION,
        "enable_fp_fusion": True,
        **specialisation.extra,
    }
    done = triton.compile(_source(specialisation), target=target, options=options)
    ptx = done.asm["ptx"]
    said = _assemble(ptx, capability)
    return Compiled(
        kernel=kernel.__name__,
        label=specialisation.label,
        capability=capability,
        num_warps=specialisation.num_warps,
        registers=_number(r"Used (\d+) registers", said),
        spill_bytes=_number(r"(\d+) bytes spill stores", said) + _number(r"(\d+) bytes spill loads", said),
        stack_bytes=_number(r"(\d+) bytes stack frame", said),
        shared_bytes=int(done.metadata.shared),
        scratch_bytes=sum(int(getattr(done.metadata, f"{kind}_scratch_size", 0)) for kind in ("global", "profile")),
        ptx=ptx,
    )


def _source(form: Specialisation) -> Any:
    names = form.kernel.arg_names
    if sorted([*form.types, *form.constants]) != sorted(names) or not set(form.divisible) <= set(form.types):
        raise ValueError(
            f"{form.kernel.__name__} {form.label!r} has types {list(form.types)}, constants {list(form.constants)} and divisible "
            f"{list(form.divisible)}; together they must name each of its arguments {names} once"
        )
    signature = {name: form.types.get(name, "constexpr") for name in names}
    divisible = {(names.index(name),): [["tt.divisibility", 16]] for name in form.divisible}
    return ASTSource(form.kernel, signature, dict(form.constants), divisible)


def _assemble(ptx: str, capability: int) -> str:
    """What ptxas -v says of it."""
    tool = knobs.nvidia.ptxas if capability < 90 else getattr(knobs.nvidia, "ptxas_blackwell", knobs.nvidia.ptxas)
    architecture = f"sm_{capability}a" if capability >= 90 else f"sm_{capability}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(ptx, encoding="utf-8")
        command = [tool.path, "-v", f"--gpu-name={architecture}", str(path), "-o", str(path.with_suffix(".cubin"))]
        ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise ValueError(f"ptxas refuses the PTX for {architecture}: {ran.stderr.strip()}")
    return ran.stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"ptxas said nothing like {pattern!r}: {text.strip()!r}")
    return int(found[1])
