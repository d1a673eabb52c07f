"""What a compiled kernel does to memory, read from its PTX."""

import re
from collections import defaultdict
from dataclasses import dataclass

# Sizes are 32 bits wide, and may be widened into the kind of register that addresses use.
_PARAMETER = re.compile(r"ld\.param(?:::\w+)?\.\w64\s+(%\w+), \[\w+_param_(\d+)\]")
_REGISTER = re.compile(r"%[a-z]+\d+")
_GLOBAL = re.compile(
    r"(?P<kind>ld|st)\.(?:\w+\.)*global(?P<rest>[\w.:]*)\s+.*?\[ *(?P<address>%\w+)"
)
_COPY = re.compile(
    r"cp\.async\.\w+\.shared\.global\S*\s+\[.*?\], \[ *(?P<address>%\w+).*?\], (?P<width>\w+)"
)
_MMA = re.compile(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b")


@dataclass(frozen=True)
class Access:
    """One load or store instruction on global memory.

    Attributes:
        parameter: index of the kernel parameter that the address comes from; None where the PTX
            does not tell.
        store: a store, else a load.
        width_bytes: bytes that one thread moves.
    """

    parameter: int | None
    store: bool
    width_bytes: int


def accesses(ptx: str) -> list[Access]:
    """Every global load and store of a kernel, with the parameter that it goes through."""
    parameters: dict[str, int] = {}
    sources: dict[str, set[str]] = defaultdict(set)
    found: list[tuple[str, bool, int]] = []
    for line in _instructions(ptx):
        if match := _PARAMETER.search(line):
            parameters[match[1]] = int(match[2])
        elif match := _COPY.search(line):
            found.append((match["address"], False, int(match["width"], 0)))
        elif match := _GLOBAL.search(line):
            found.append((match["address"], match["kind"] == "st", _width(match["rest"])))
        elif not line.startswith(("ld.", "st.")):
            # A loaded value is an index, never a base: only arithmetic is followed.
            registers = _REGISTER.findall(line)
            if registers:
                sources[registers[0]].update(registers[1:])
    return [
        Access(_base(address, sources, parameters), store, width) for address, store, width in found
    ]


def tensor_core_instructions(ptx: str) -> int:
    """Matrix instructions on tensor cores, of whatever generation, counted as they stand."""
    return len(_MMA.findall(ptx))


def _instructions(ptx: str) -> list[str]:
    """PTX statements, without comments, labels, directives and predicates."""
    text = re.sub(r"//[^\n]*", "", ptx)
    lines = (part.strip().rsplit("\n", 1)[-1] for part in text.split(";"))
    return [re.sub(r"^@!?%p\d+\s+", "", line.strip()) for line in lines]


def _width(qualifiers: str) -> int:
    """Bytes of `.v4.b32`, `.b16` and their like."""
    vector = re.search(r"\.v(\d)", qualifiers)
    bits = re.search(r"\.[bsuf](\d+)", qualifiers)
    assert bits is not None, qualifiers
    return (int(vector[1]) if vector else 1) * int(bits[1]) // 8


def _base(address: str, sources: dict[str, set[str]], parameters: dict[str, int]) -> int | None:
    """The 64-bit parameter that an address register was computed from, if there is just one."""
    seen, stack = {address}, [address]
    while stack:
        for register in sources[stack.pop()] - seen:
            seen.add(register)
            stack.append(register)
    bases = {parameters[r] for r in seen if r in parameters and r.startswith("%rd")}
    return bases.pop() if len(bases) == 1 else None
