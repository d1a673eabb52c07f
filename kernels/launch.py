"""One door to every kernel, so that launches can be compiled, traced and counted without a GPU."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Value = Tensor | int | None
# Stated, since Triton's default changes with its version, and with it the bits of the results.
OPTIONS = {"enable_fp_fusion": True}


@dataclass(frozen=True)
class Launch:
    """What a kernel is started with.

    Attributes:
        kernel: the `triton.jit` function.
        grid: blocks along each axis.
        arguments: run-time arguments by name: tensors, int32 sizes, None for a part not in use.
        constants: `tl.constexpr` arguments by name.
        num_warps, num_stages: launch configuration.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Value]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int

    @property
    def name(self) -> str:
        """Name of the device function."""
        name: str = self.kernel.__name__
        return name

    @property
    def blocks(self) -> int:
        """Blocks of the whole grid."""
        return math.prod(self.grid)


Watcher = Callable[[Launch], AbstractContextManager[None]]
_watchers: list[Watcher] = []


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Every launch inside runs within the context that `watcher` gives for it."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collects the launches made inside; on meta tensors nothing runs."""
    launches: list[Launch] = []

    def note(launch: Launch) -> AbstractContextManager[None]:
        launches.append(launch)
        return nullcontext()

    with watching(note):
        yield launches


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: Mapping[str, Value],
    constants: Mapping[str, Any],
    *,
    num_warps: int,
    num_stages: int,
) -> None:
    """Starts `kernel` over `grid`; an empty grid and meta tensors start nothing."""
    call = Launch(kernel, grid, arguments, constants, num_warps, num_stages)
    if call.blocks == 0:
        return
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    with _all(call):
        if tensors[0].is_meta:
            return
        device = tensors[0].device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[grid](
                **arguments, **constants, num_warps=num_warps, num_stages=num_stages, **OPTIONS
            )


@contextmanager
def _all(call: Launch) -> Iterator[None]:
    """The contexts of every watcher, one inside the other."""
    with ExitStack() as stack:
        for watcher in _watchers:
            stack.enter_context(watcher(call))
        yield
