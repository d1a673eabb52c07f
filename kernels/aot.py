"""Compiles recorded launches for a list of cards without any of them, and reads the result."""

import re
import subprocess
from collections.abc import Mapping, Sequence
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


def compile_launch(
    launch: Launch,
    sm: int,
    options: Mapping[str, Any] | None = None,
    alike: Sequence[Launch] = (),
) -> Compiled:
    """Compiles a launch for one compute capability; no GPU or driver is needed.

    The types, the divisibility by 16 of pointers and sizes, and sizes of one are specialised as
    Triton does when it launches.

    Args:
        launch: a recorded launch; its tensors may be meta.
        sm: a key of `CARDS`.
        options: further compiler options, for instance ptx_version.
        alike: other launches that the result must serve too: only what holds for all of them is
            specialised.
    Raises:
        ValueError: an unknown sm or dtype, or launches that differ in a constant or a type.
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
        values = [_value(each, name) for each in (launch, *alike)]
        kind = _type(launch, name, values)
        signature[name] = kind
        if kind == "constexpr":
            constants[name] = values[0]
        elif all(_divisible(value) for value in values):
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


def _value(launch: Launch, name: str) -> Any:
    return launch.arguments[name] if name in launch.arguments else launch.constants[name]


def _type(launch: Launch, name: str, values: list[Any]) -> str:
    """Triton's type of an argument, as its launcher would see it for every one of `values`."""
    if name in launch.constants or values[0] is None:
        if any(value is not values[0] and value != values[0] for value in values):
            raise ValueError(f"compile: {launch.name}: {name}: constants differ: {values}")
        return "constexpr"
    kinds = {_scalar(launch, name, value) for value in values}
    if kinds == {"one"}:
        return "constexpr"
    kinds = {"i32" if kind == "one" else kind for kind in kinds}
    if len(kinds) > 1:
        raise ValueError(f"compile: {launch.name}: {name}: types differ: {sorted(kinds)}")
    return kinds.pop()


def _scalar(launch: Launch, name: str, value: Any) -> str:
    if isinstance(value, Tensor):
        if value.dtype not in TYPES:
            raise ValueError(f"compile: {launch.name}: {name}: unknown dtype {value.dtype}")
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    if value == 1:
        return "one"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _divisible(value: Any) -> bool:
    """Whether Triton's launcher would tell the compiler that `value` is a multiple of 16."""
    if isinstance(value, Tensor):
        # A meta tensor has no address; allocations are aligned, views need not be.
        return (value.storage_offset() * value.element_size()) % ALIGNMENT == 0
    return bool(value % ALIGNMENT == 0)


def assemble(ptx: str) -> bytes:
    """The cubin that Triton's ptxas makes of PTX, for the target that the PTX names.

    Raises:
        RuntimeError: ptxas refuses; with its words.
    """
    target = re.search(r"^\.target (sm_(\d+)a?)", ptx, re.M)
    if target is None:
        raise RuntimeError("ptxas: expected a .target line in the PTX")
    with TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_text(ptx)
        tool = _tool("ptxas-blackwell" if int(target[2]) >= 100 else "ptxas")
        command = [tool, f"--gpu-name={target[1]}", str(source), "-o", str(cubin)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"ptxas: {done.stderr.strip()}")
        return cubin.read_bytes()


def _tool(name: str) -> str:
    """A binary utility that comes with Triton."""
    import triton

    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name)
