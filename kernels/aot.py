"""Compiles recorded launches for a list of cards without any of them, and reads the result."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from .backend import BackendUnavailable, interpreting
from .cards import CARDS
from .launch import OPTIONS, Launch
from .ptx import Access, accesses, tensor_core_instructions

TYPES = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
}
ALIGNMENT = 16


@dataclass(frozen=True)
class Resources:
    """What one block of a compiled kernel takes."""

    registers: int
    local_bytes: int
    shared_bytes: int


@dataclass(frozen=True)
class Compiled:
    """A kernel compiled for one compute capability.

    Attributes:
        parameters: names of the kernel's parameters in PTX order, hidden ones left out.
        dots: matrix products in the kernel's source form.
        contract: metadata of the compiler: name, shared, num_warps, scratch sizes.
    """

    launch: Launch
    sm: int
    ptx: str
    cubin: bytes
    parameters: tuple[str, ...]
    dots: int
    contract: Mapping[str, Any]

    @cached_property
    def resources(self) -> Resources:
        """Registers, local memory (spills and stack) and shared memory, from the cubin."""
        with TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.cubin"
            path.write_bytes(self.cubin)
            text = subprocess.run(
                [_tool("cuobjdump"), "--dump-resource-usage", str(path)],
                capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip
        usage = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
        if usage is None:
            raise RuntimeError(f"cuobjdump: expected a resource line, got {text!r}")
        registers, stack, static, local = map(int, usage.groups())
        return Resources(registers, stack + local, max(static, int(self.contract["shared"])))

    @cached_property
    def accesses(self) -> list[tuple[str, Access]]:
        """Every global load and store, with the name of its argument ("?" where PTX hides it)."""
        return [
            ("?" if a.parameter is None else self.parameters[a.parameter], a)
            for a in accesses(self.ptx)
        ]

    @property
    def mma_count(self) -> int:
        """Tensor-core instructions."""
        return tensor_core_instructions(self.ptx)

    def vector_load_share(self, exempt: frozenset[str] = frozenset()) -> float:
        """Loaded bytes that come by 16-byte instructions, of all operands but the exempt."""
        loads = [a.width_bytes for name, a in self.accesses if not a.store and name not in exempt]
        return sum(w for w in loads if w >= ALIGNMENT) / sum(loads) if loads else 1.0


def compile_launch(launch: Launch, sm: int, options: Mapping[str, Any] | None = None) -> Compiled:
    """Compiles a launch for one compute capability; no GPU or driver is needed.

    The types, the divisibility by 16 of pointers and sizes, and sizes of one are specialised as
    Triton does when it launches.

    Args:
        launch: a recorded launch; its tensors may be meta.
        sm: a key of `CARDS`.
        options: further compiler options, for instance ptx_version.
    Raises:
        ValueError: an unknown sm or dtype.
        BackendUnavailable: this process interprets kernels.
    """
    if sm not in CARDS:
        raise ValueError(f"compile: sm: expected one of {sorted(CARDS)}, got {sm}")
    if interpreting():
        raise BackendUnavailable("compile: TRITON_INTERPRET=1 is set, which replaces the compiler")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = launch.kernel.arg_names
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for i, name in enumerate(names):
        value = launch.arguments[name] if name in launch.arguments else launch.constants[name]
        kind = _type(launch, name, value)
        signature[name] = kind
        if kind == "constexpr":
            constants[name] = value
        elif _divisible(value):
            attributes[(i,)] = [["tt.divisibility", ALIGNMENT]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    built = triton.compile(
        source,
        target=GPUTarget("cuda", sm, 32),
        options={
            "num_warps": launch.num_warps,
            "num_stages": launch.num_stages,
            **OPTIONS,
            **(options or {}),
        },
    )
    return Compiled(
        launch,
        sm,
        built.asm["ptx"],
        built.asm["cubin"],
        tuple(name for name in names if signature[name] != "constexpr"),
        built.asm["ttir"].count("tt.dot "),
        built.metadata._asdict(),
    )


def _type(launch: Launch, name: str, value: Any) -> str:
    """Triton's type of an argument, as its launcher would see it."""
    if name in launch.constants or value is None:
        return "constexpr"
    if isinstance(value, Tensor):
        if value.dtype not in TYPES:
            raise ValueError(f"compile: {launch.name}: {name}: unknown dtype {value.dtype}")
        return f"*{TYPES[value.dtype]}"
    if value == 1:
        return "constexpr"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _divisible(value: Any) -> bool:
    """Whether Triton's launcher would tell the compiler that `value` is a multiple of 16."""
    if isinstance(value, Tensor):
        # A meta tensor has no address; allocations are aligned, views need not be.
        return (value.storage_offset() * value.element_size()) % ALIGNMENT == 0
    return bool(value % ALIGNMENT == 0)


def _tool(name: str) -> str:
    """A binary utility that comes with Triton."""
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)
