"""Bytes that kernels move, counted in Triton's interpreter from their own loads and stores."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from .backend import BackendUnavailable, interpreting
from .launch import Launch, watching


@dataclass(frozen=True)
class Operand:
    """One tensor argument of one launch: its size and the bytes asked of it."""

    name: str
    size_bytes: int
    read_bytes: int
    written_bytes: int


@dataclass(frozen=True)
class LaunchTrace:
    """Bytes of one launch, by operand."""

    kernel: str
    operands: tuple[Operand, ...]

    def moved_bytes(self, cached: frozenset[str] = frozenset()) -> int:
        """Bytes to and from memory: of a cached operand its size at most, however often read."""
        return sum(
            o.written_bytes
            + (min(o.size_bytes, o.read_bytes) if o.name in cached else o.read_bytes)
            for o in self.operands
        )

    def cached_bytes(self, cached: frozenset[str]) -> int:
        """What the cached operands are asked for, served by the cache."""
        return sum(o.read_bytes for o in self.operands if o.name in cached)


@contextmanager
def tracing() -> Iterator[list[LaunchTrace]]:
    """Counts the active lanes of every load and store, times their width, per kernel argument.

    These are the bytes that the program asks for, before any cache.

    Raises:
        BackendUnavailable: the process does not interpret (TRITON_INTERPRET=1).
    """
    if not interpreting():
        raise BackendUnavailable("tracing: needs TRITON_INTERPRET=1 before kernels are imported")
    from triton.runtime.interpreter import InterpreterBuilder

    traces: list[LaunchTrace] = []
    ranges: list[tuple[int, int, str]] = []
    read: dict[str, int] = defaultdict(int)
    written: dict[str, int] = defaultdict(int)

    def count(into: dict[str, int], pointers: Any, mask: Any) -> None:
        active = pointers.data[mask.data]
        if not active.size:
            return
        width = pointers.get_element_ty().primitive_bitwidth // 8
        for start, end, name in ranges:
            inside = int(np.count_nonzero((active >= start) & (active < end)))
            into[name] += inside * width
            if inside == active.size:
                return

    @contextmanager
    def watch(call: Launch) -> Iterator[None]:
        tensors = {n: t for n, t in call.arguments.items() if isinstance(t, Tensor) and t.numel()}
        ranges[:] = [(t.data_ptr(), _end(t), name) for name, t in tensors.items()]
        _check_disjoint(call, ranges)
        read.clear()
        written.clear()
        yield
        operands = (
            Operand(name, t.numel() * t.element_size(), read[name], written[name])
            for name, t in tensors.items()
        )
        traces.append(LaunchTrace(call.name, tuple(operands)))

    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def counting_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        count(read, ptrs, mask)
        return load(self, ptrs, mask, *rest)

    def counting_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        count(written, ptrs, mask)
        return store(self, ptrs, value, mask, *rest)

    InterpreterBuilder.create_masked_load = counting_load
    InterpreterBuilder.create_masked_store = counting_store
    try:
        with watching(watch):
            yield traces
    finally:
        InterpreterBuilder.create_masked_load = load
        InterpreterBuilder.create_masked_store = store


def _end(tensor: Tensor) -> int:
    """The address behind a tensor's last element."""
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()


def _check_disjoint(call: Launch, ranges: list[tuple[int, int, str]]) -> None:
    """Interleaved operands could not be told apart by address."""
    ordered = sorted(ranges)
    for (_, end, one), (start, _, other) in pairwise(ordered):
        if start < end:
            raise ValueError(f"tracing: {call.name}: {one} and {other} share memory")
