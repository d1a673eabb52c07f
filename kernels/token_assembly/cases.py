"""Shape classes of token assembly, and the numbers that they are held to."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kernels.case import Case, Step

from . import launch
from .cases_rows import rows_cases

HALF, INT, LONG, FLOAT = 2, 4, 8, 4  # bytes
CACHED = frozenset(
    f"{name}_ptr"
    for name in ("table", "signal_weight", "read_out", "offsets", "norm_weight", "norm_bias")
)
GATHERED = frozenset(
    f"{name}_ptr"
    for name in (
        # One number, or six, an event: its thread needs no more.
        "index", "codes", "signals", "offsets", "read_sequence", "ends", "event_rows", "order",
        "starts", "base_rows",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Sequences, events of each, width, rows of the tables, codes, signals, items, read-outs."""

    b: int = 32
    length: int = 200
    d: int = 768
    v: int = 305  # hours, weekdays, weeks, 5 event types, 16 recencies, 200 positions
    f: int = 6
    s: int = 6
    n: int = 100_000
    r: int = 32

    def __str__(self) -> str:
        return f"fp16 B{self.b} L{self.length} D{self.d} V{self.v} S{self.s}"

    @property
    def events(self) -> int:
        """Events of all sequences."""
        return self.b * self.length

    @property
    def of_tokens(self) -> int:
        """Bytes of all tokens."""
        return (self.events + self.b) * self.d * HALF

    @property
    def of_events(self) -> int:
        """Bytes of what says which rows an event sums: item, codes, signals."""
        return self.events * (INT + self.f * INT + self.s * HALF)


def cases() -> list[Case]:
    """The request path in three forms and two widths, a training step's gradients, item rows."""
    paper, small = Shape(), Shape(d=128)
    training = Shape(n=2000, r=32 * 16)
    return [
        _forward("folded padded", paper),
        _forward("folded ragged", paper, ragged=True),
        _forward("folded norm", paper, norm=True),
        _forward("folded padded", small),
        # Three or five tiles of table rows read the gradient again, parts are summed: README.md.
        _backward("gradient", training, 5.0),
        _backward(
            "gradient",
            replace(training, d=128),
            7.9,
            "32 users' sums of 128 columns are 32 blocks, beside 2,000 and 200 of the same step",
        ),
        *rows_cases(),
    ]


def _forward(name: str, shape: Shape, *, ragged: bool = False, norm: bool = False) -> Case:
    of_users = shape.b * shape.d * HALF
    of_tables = (shape.v + shape.s + 1 + 2 * norm) * shape.d * HALF
    of_reads = shape.r * (shape.d * HALF + 2 * INT)
    of_rows = shape.events * shape.d * HALF
    ideal = of_rows + of_users + of_tables + shape.of_events + shape.of_tokens + of_reads
    ideal += (shape.b + 1) * INT if ragged else 0

    def prepare(device: torch.device) -> Callable[[], object]:
        x = _inputs(shape, device, ragged, norm)
        weight, bias = x.pop("norm") or (None, None)
        return partial(launch.assemble, **x, norm_weight=weight, norm_bias=bias, eps=1e-5)

    return Case(
        op="token_assembly",
        config=f"{name} {shape}",
        prepare=prepare,
        ideal_bytes=ideal,
        bytes_bound=1.05,
        flops=0,
        cached=CACHED,
        unfused=_unfused(shape, norm),
        unfused_bound=4.0,
        gathered=GATHERED,
    )


def _backward(name: str, shape: Shape, bound: float, why_few_blocks: str = "") -> Case:
    rows = {"d_rows": shape.n, "d_user": shape.b, "d_table": shape.v + shape.s}
    of_outputs = sum(rows.values()) * shape.d * HALF
    of_reads = shape.r * (shape.d * HALF + INT)

    def prepare(device: torch.device) -> Callable[[], object]:
        x = _inputs(shape, device)
        gradients = (
            x["rows"].new_empty(shape.b, shape.length + 1, shape.d).fill_(1),
            x["rows"].new_empty(shape.r, shape.d).fill_(1),
        )
        readers = torch.arange(shape.r, device=device, dtype=torch.int32) % shape.b
        return partial(
            launch.assemble_backward,
            *gradients, x["index"], x["codes"], x["signals"], readers, None, shape.n, shape.v,
        )  # fmt: skip

    return Case(
        op="token_assembly",
        config=f"{name} {shape} N{shape.n} R{shape.r}",
        prepare=prepare,
        ideal_bytes=shape.of_tokens + of_reads + shape.of_events + of_outputs,
        bytes_bound=bound,
        flops=2 * (shape.v + shape.s) * shape.events * shape.d,
        torch_bytes=_between(shape),
        gathered=GATHERED,
        why_few_blocks=why_few_blocks,
    )


def _between(shape: Shape) -> int:
    """Torch's part of the backward: sorting keys, places, final sums."""
    # Stable radix sort of (int32 key, int64 place): 4 passes, each reads and writes both.
    of_sort = (shape.events + shape.r) * 4 * 2 * (INT + LONG)
    of_places = shape.events * (4 * LONG + 2 * INT) + shape.n * (LONG + 2 * INT)
    sums = (shape.v + shape.s) * shape.d
    of_sums = sums * (launch.config(shape.d).table_splits * FLOAT + 2 * FLOAT + 4 * HALF)
    return of_sort + of_places + of_sums


def _unfused(shape: Shape, norm: bool) -> tuple[Step, ...]:
    """Eager torch in fp16 with int64 indices; its small tables come from the cache too."""
    rows, tables = shape.events * shape.d * HALF, (shape.v - shape.length) * shape.d * HALF
    ids, users = shape.events * LONG, shape.b * shape.d * HALF
    steps = [
        Step("embedding of items fp16, int64", ids + 2 * rows),
        Step("signals @ weight fp16", shape.events * shape.s * HALF + rows),
        Step("add fp16", 3 * rows),
        Step("5 embeddings fp16, int64", 5 * (ids + rows) + tables),
        Step("5 adds fp16", 5 * 3 * rows),
        Step("add of positions fp16, broadcast", 2 * rows + shape.length * shape.d * HALF),
        Step("cat with [USER] fp16", 2 * (rows + users)),
        Step("add of the read-out fp16", users + shape.r * shape.d * HALF),
        Step("ends + 1 int64", 2 * shape.r * LONG),
    ]
    if norm:
        steps.append(Step("layer norm of tokens and read-outs fp16", 2 * (rows + 2 * users)))
    return tuple(steps)


def _inputs(
    shape: Shape, device: torch.device, ragged: bool = False, norm: bool = False
) -> dict[str, Any]:
    """Arguments of the launcher; items spread over the table, lengths equal or nearly so."""
    make = None if device.type == "meta" else torch.Generator(device).manual_seed(0)

    def half(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.float16, generator=make)

    def below(n: int, *size: int) -> Tensor:
        return torch.randint(n, size, device=device, dtype=torch.int32, generator=make)

    events = (shape.events,) if ragged else (shape.b, shape.length)
    offsets = torch.arange(shape.b + 1, device=device, dtype=torch.int32) * shape.length
    # Every other sequence gives its neighbour three events.
    offsets[1:-1:2] -= 3
    return {
        "rows": half(shape.n // 100, shape.d).repeat(100, 1),  # drawing all of them takes seconds
        "index": below(shape.n, *events),
        "user": half(shape.b, shape.d),
        "table": half(shape.v, shape.d),
        "codes": below(shape.v, *events, shape.f),
        "signals": half(*events, shape.s),
        "signal_weight": half(shape.s, shape.d),
        "read_out": half(shape.d),
        "read_sequence": torch.arange(shape.r, device=device, dtype=torch.int32) % shape.b,
        "ends": below(shape.length + 1, shape.r),
        "offsets": offsets if ragged else None,
        "norm": (half(shape.d), half(shape.d)) if norm else None,
    }
