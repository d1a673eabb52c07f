"""What a TensorRT bindings wheel offers, read from its library without loading it.

The library cannot be loaded here: it wants libnvinfer, which is on no package registry. But its
code names every class, method, argument and enumerator by a string that it refers to, method after
method with the docstring and pybind11's signature beside. So the references of the code to its
constant strings, in order, are the API surface.
"""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path

MEMBER = "tensorrt_bindings/tensorrt.so"
_LEA = re.compile(rb"[\x48\x4c]\x8d[\x05\x0d\x15\x1d\x25\x2d\x35\x3d]")  # lea r64, [rip + disp32]
_SIGNATURE = re.compile(r"\((?P<given>.*)\) -> ")
_NEAR = 8  # strings between a method's name and its arguments' names


def library(source: Path) -> bytes:
    """The library's bytes, from a wheel or from the file itself."""
    if source.suffix != ".whl":
        return source.read_bytes()
    with zipfile.ZipFile(source) as wheel:
        return wheel.read(MEMBER)


def strings(elf: bytes) -> list[str]:
    """Constant strings that the code refers to, in the order of the code."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    count, names_at = struct.unpack_from("<HH", elf, 0x3C)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, table + 64 * i) for i in range(count)]
    names = headers[names_at][4]
    sections = {_text(elf, names + header[0]): header for header in headers}
    code, data = sections[".text"], sections[".rodata"]
    found = []
    for match in _LEA.finditer(elf, code[4], code[4] + code[5]):
        at = match.start()
        (displacement,) = struct.unpack_from("<i", elf, at + 3)
        target = code[3] + (at - code[4]) + 7 + displacement  # relative to the next instruction
        if data[3] <= target < data[3] + data[5]:
            text = _text(elf, data[4] + target - data[3])
            if text and text.isascii() and all(c.isprintable() or c in "\n\t" for c in text):
                found.append(text)
    return found


def arguments(surface: list[str], method: str) -> set[str]:
    """Names beside a method's name, and those that its docstring calls `:arg`."""
    near = set()
    for place, text in enumerate(surface):
        if text == method:
            for other in surface[max(0, place - _NEAR) : place + _NEAR + 1]:
                near |= {other, *re.findall(r":arg (\w+)", other)}
    return near


def takes(surface: list[str], method: str, given: list[str]) -> bool:
    """Whether a method takes these arguments: by their names, or by pybind11's signature.

    Where a method was compiled apart from its class, only the signature lies beside its name:
    `({%}, {int}) -> bool`, the object first, then one pair of braces an argument.
    """
    if set(given) <= arguments(surface, method):
        return True
    return any(
        found["given"].count("{") == 1 + len(given)
        for place, text in enumerate(surface)
        if text == method
        for other in surface[place + 1 : place + 3]
        if (found := _SIGNATURE.match(other))
    )


def _text(elf: bytes, start: int) -> str:
    return elf[start : elf.index(b"\0", start)].decode("latin-1")
