"""A compiled kernel as an ahead-of-time TensorRT plugin: what TensorRT demands of it, checked.

TensorRT (10.8 and later, `tensorrt.plugin`) embeds a kernel's PTX in an engine and starts it with
input pointers, 32-bit integers and output pointers, in this order and with nothing else: no hidden
parameters, no floats, no workspace, and one PTX for every shape of the same types. A Triton kernel
has two hidden scratch parameters, and is compiled for the sizes that it is first seen with. Here
both are put right, or the kernel is refused with the rule that it breaks. No GPU, driver or
TensorRT is needed.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from .aot import Compiled, assemble, compile_launch
from .launch import Launch

# PTX ISA that a driver must know to load the engine: the oldest that has the target.
PTX_VERSIONS = {80: 83, 90: 83, 100: 87, 120: 87}
SHARED_LIMIT = 48 * 1024  # more needs an opt-in of the launcher that TensorRT does not document
HIDDEN = 2  # Triton's global_scratch and profile_scratch, behind all others


class ContractError(ValueError):
    """A `kernel` that cannot be a plugin; `rule` names what it breaks."""

    def __init__(self, kernel: str, rule: str, sentence: str) -> None:
        super().__init__(f"plugin {kernel}: {rule}: {sentence}")
        self.kernel, self.rule = kernel, rule


@dataclass(frozen=True)
class Plugin:
    """What TensorRT is given of a kernel.

    Attributes:
        name: entry of the PTX.
        ptx: hidden parameters removed, assembled once to prove it.
        inputs, scalars, outputs: parameter names, in the kernel's order.
        block_x: threads of a block; block_y and block_z are 1.
        shared_bytes: dynamic shared memory.
        rules: names of the rules that were checked.
    """

    name: str
    sm: int
    ptx_version: int
    ptx: str
    inputs: tuple[str, ...]
    scalars: tuple[str, ...]
    outputs: tuple[str, ...]
    block_x: int
    shared_bytes: int
    rules: tuple[str, ...]


def plugin(launches: Sequence[Launch], sm: int) -> Plugin:
    """Compiles one kernel for the launches of all shape buckets and checks the contract.

    Args:
        launches: one recorded launch a bucket, of the same kernel.
        sm: compute capability.
    Raises:
        ContractError: a rule is broken; `rule` says which.
    """
    first = launches[0]
    names = {launch.name for launch in launches}
    if len(names) > 1:
        raise ContractError(first.name, "one_kernel", f"got launches of {sorted(names)}")
    options = {"ptx_version": PTX_VERSIONS[sm]}
    try:
        built = compile_launch(first, sm, options, launches[1:])
        others = [compile_launch(each, sm, options, launches) for each in launches[1:]]
    except ValueError as error:
        raise ContractError(first.name, "shape_independent", str(error)) from None
    for rule, check in _RULES.items():
        for sentence in check(built, others):
            raise ContractError(first.name, rule, sentence)
    ptx = strip_hidden(built.ptx)
    try:
        assemble(ptx)
    except RuntimeError as error:
        raise ContractError(first.name, "assembles", str(error)) from None
    stored = _stored(built)
    pointers = [name for name in built.parameters if isinstance(first.arguments[name], Tensor)]
    return Plugin(
        name=str(built.contract["name"]),
        sm=sm,
        ptx_version=PTX_VERSIONS[sm],
        ptx=ptx,
        inputs=tuple(name for name in pointers if name not in stored),
        scalars=tuple(name for name in built.parameters if name not in pointers),
        outputs=tuple(name for name in pointers if name in stored),
        block_x=first.num_warps * 32,
        shared_bytes=int(built.contract["shared"]),
        rules=("one_kernel", *_RULES, "assembles"),
    )


def strip_hidden(ptx: str) -> str:
    """PTX without the kernel's last two parameters, which nothing reads."""
    entry = re.search(r"\.entry \w+\((.*?)\)", ptx, re.S)
    assert entry is not None
    parameters = entry[1].split(",")
    kept = ",".join(parameters[:-HIDDEN]) + "\n"
    return ptx[: entry.start(1)] + kept + ptx[entry.end(1) :]


def _hidden_unread(built: Compiled, others: Sequence[Compiled]) -> Iterator[str]:
    for name in ("global_scratch_size", "profile_scratch_size"):
        if built.contract[name]:
            yield f"the compiler asks for {name} = {built.contract[name]}"
    first = len(built.parameters)
    if _parameter_count(built.ptx) != first + HIDDEN:
        yield f"expected {first} parameters and {HIDDEN} hidden, got {_parameter_count(built.ptx)}"
    for i in range(first, first + HIDDEN):
        if re.search(rf"\[\w+_param_{i}\b", built.ptx):
            yield f"hidden parameter {i} is read"


def _order(built: Compiled, others: Sequence[Compiled]) -> Iterator[str]:
    stored = _stored(built)
    ranks = []
    for name in built.parameters:
        pointer = isinstance(built.launch.arguments[name], Tensor)
        ranks.append(2 if name in stored else 0 if pointer else 1)
    if ranks != sorted(ranks):
        yield f"expected input pointers, integers, output pointers, got {built.parameters}"


def _no_aliasing(built: Compiled, others: Sequence[Compiled]) -> Iterator[str]:
    loaded = {name for name, access in built.accesses if not access.store}
    for name in sorted(loaded & _stored(built)):
        yield f"{name} is read and written"
    if any(name == "?" for name, _ in built.accesses):
        yield "an address cannot be followed to a parameter"


def _int32_only(built: Compiled, others: Sequence[Compiled]) -> Iterator[str]:
    for name in built.parameters:
        value = built.launch.arguments[name]
        if not isinstance(value, Tensor) and not (
            isinstance(value, int) and -(2**31) <= value < 2**31
        ):
            yield f"{name} is {value!r}, expected a 32-bit integer"


def _shape_independent(built: Compiled, others: Sequence[Compiled]) -> Iterator[str]:
    for other in others:
        if _code(other.ptx) != _code(built.ptx):
            yield "two buckets compile to different PTX"
        if other.contract["shared"] != built.contract["shared"]:
            yield "two buckets take different shared memory"


def _shared_memory(built: Compiled, others: Sequence[Compiled]) -> Iterator[str]:
    if built.resources.shared_bytes > SHARED_LIMIT:
        yield f"{built.resources.shared_bytes} bytes shared, at most {SHARED_LIMIT}"


def _aligned(built: Compiled, others: Sequence[Compiled]) -> Iterator[str]:
    # TensorRT asks 256 bytes of every address that it is given (NvInferRuntime.h,
    # setTensorAddress); that its own tensors keep at least 16 is believed, not documented.
    for name, access in built.accesses:
        if access.width_bytes > 16:
            yield f"{name} is accessed {access.width_bytes} bytes at a time"


_RULES: dict[str, Callable[[Compiled, Sequence[Compiled]], Iterator[str]]] = {
    "hidden_unread": _hidden_unread,
    "order": _order,
    "no_aliasing": _no_aliasing,
    "int32_only": _int32_only,
    "shape_independent": _shape_independent,
    "shared_memory": _shared_memory,
    "aligned": _aligned,
}


def _stored(built: Compiled) -> set[str]:
    return {name for name, access in built.accesses if access.store}


def _parameter_count(ptx: str) -> int:
    entry = re.search(r"\.entry \w+\((.*?)\)", ptx, re.S)
    assert entry is not None
    return len(entry[1].split(","))


def _code(ptx: str) -> str:
    """PTX without line information, which names files and not what runs."""
    return re.sub(r"^\s*(\.loc|\.file)\b[^\n]*\n|//[^\n]*", "", ptx, flags=re.M)
