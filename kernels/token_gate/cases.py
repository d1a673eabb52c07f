"""Shape classes of the token gate, and the numbers that they are held to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.case import Case, Step

from . import launch

HALF, SHORT, INT, LONG, FLOAT = 2, 2, 4, 8, 4  # bytes
CACHED = frozenset({"keys_ptr", "values_ptr", "scale_ptr"})
# One number a token or a piece: its thread needs no more.
GATHERED = frozenset(
    f"{name}_ptr" for name in ("ids", "order", "starts", "piece_starts", "piece_segments")
)


@dataclass(frozen=True)
class Shape:
    """Tokens of a step, domain tokens and width; hidden and tables are fp16."""

    t: int
    v: int
    d: int

    def __str__(self) -> str:
        return f"fp16 T{self.t} V{self.v} D{self.d}"

    @property
    def of_tokens(self) -> int:
        """Bytes of [T, D]."""
        return self.t * self.d * HALF

    @property
    def of_table(self) -> int:
        """Bytes of [V, D]."""
        return self.v * self.d * HALF

    @property
    def of_small(self) -> int:
        """Bytes of ids and scale."""
        return self.t * INT + self.d * FLOAT

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Every token with a domain token, the i-th of which has a share of about i^(-2/3)."""
        make = None if device.type == "meta" else torch.Generator(device).manual_seed(0)

        def half(*size: int) -> Tensor:
            return torch.randn(size, device=device, dtype=torch.float16, generator=make)

        ids = (torch.rand(self.t, device=device, generator=make) ** 3 * self.v).int()
        scale = torch.ones(self.d, device=device)
        return half(self.t, self.d), half(self.v, self.d), half(self.v, self.d), ids, scale


def cases() -> list[Case]:
    """A step over the texts of some hundred authors, in two widths, and its gradients."""
    wide, small = Shape(8192, 1000, 256), Shape(12_288, 1000, 64)
    # The sort, its order and the blocks' parts of the scale's gradient: README.md.
    return [_forward(wide), _forward(small), _backward(wide, 1.15), _backward(small, 1.25)]


def _forward(shape: Shape) -> Case:
    return Case(
        op="token_gate",
        config=f"gate {shape}",
        prepare=lambda device: partial(launch.gate, *shape.inputs(device), 1e-6),
        ideal_bytes=2 * shape.of_tokens + 2 * shape.of_table + shape.of_small,
        bytes_bound=1.05,
        flops=0,
        cached=CACHED,
        unfused=_unfused(shape),
        unfused_bound=6.0,
        gathered=GATHERED,
    )


def _backward(shape: Shape, bound: float) -> Case:
    def prepare(device: torch.device) -> Callable[[], object]:
        x = shape.inputs(device)
        return partial(launch.gate_backward, torch.ones_like(x[0]), *x, 1e-6)

    return Case(
        op="token_gate",
        config=f"gradient {shape}",
        prepare=prepare,
        ideal_bytes=3 * shape.of_tokens + 4 * shape.of_table + shape.of_small + shape.d * FLOAT,
        bytes_bound=bound,
        flops=0,
        cached=CACHED,
        torch_bytes=_between(shape),
        gathered=GATHERED,
    )


def _between(shape: Shape) -> int:
    """Torch's part of the backward: sorting ids, cutting pieces, the scale's final sum."""
    # Stable radix sort of (int16 id, int64 place): 2 passes, each reads and writes both.
    of_sort = shape.t * (INT + SHORT + 2 * 2 * (SHORT + LONG))
    most = shape.t // launch.PIECE + shape.v
    of_pieces = shape.v * (SHORT + 6 * INT + 2 * LONG) + most * 3 * INT
    return of_sort + of_pieces + (min(most, launch.PROGRAMS) + 1) * shape.d * FLOAT


def _unfused(shape: Shape) -> tuple[Step, ...]:
    """Eager torch in fp16 with int64 ids; its tables come from the cache too."""
    rows, table, ids = shape.of_tokens, shape.of_table, shape.t * LONG
    gates = shape.t * HALF
    return (
        Step("rms norm of tokens, with scale fp16", 2 * rows),
        Step("rms norm of keys fp16", 2 * table),
        Step("embedding of keys fp16, int64", ids + rows + table),
        Step("product fp16", 3 * rows),
        Step("sum fp16", rows + gates),
        Step("division, sigmoid fp16", 4 * gates),
        Step("embedding of values fp16, int64", ids + rows + table),
        Step("gate times value fp16", 2 * rows + gates),
        Step("add fp16", 3 * rows),
        Step("where a token has an id fp16", ids + 2 * shape.t + 3 * rows),
    )
