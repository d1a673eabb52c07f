"""Shapes that attention ships for: the paper's (d_model 768, 8 heads of 96) and `small`'s."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from kernels.case import Case, Step

from . import launch

OP = "attention"
N_BUCKETS = 11
HALF, FLOAT, INT = 2, 4, 4
# One number a row or a pair, of a length that no thread reads eight of.
SCALARS = frozenset(
    {
        "cut_ptr", "query_day_ptr", "key_day_ptr", "bias_table_ptr", "query_offsets_ptr",
        "key_offsets_ptr", "logsumexp_ptr", "delta_ptr",
    }
)  # fmt: skip
BACKWARD_BOUND = 3.2  # kernels/attention/README.md, "Bytes"
FEW = "2 heads: `small` is the preset for CPUs, and all of its blocks run at once"


@dataclass(frozen=True)
class Shape:
    """Sequences by their cuts: row i of sequence b sees the keys before cuts[b][i].

    Attributes:
        n_keys: keys of each sequence.
        room: rows of each sequence's key buffer; None packs the keys, as `packed` the queries.
    """

    cuts: Sequence[Sequence[int]]
    n_keys: Sequence[int]
    heads: int = 8
    d: int = 96
    biased: bool = False
    room: int | None = None
    packed: bool = False

    @property
    def queries(self) -> int:
        """Query rows of the batch."""
        return sum(map(len, self.cuts))

    @property
    def keys(self) -> int:
        """Key rows of the batch that any query sees."""
        return sum(max(cuts, default=0) for cuts in self.cuts)

    @property
    def pairs(self) -> int:
        """Query-key pairs of a head."""
        return sum(map(sum, self.cuts))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of queries, keys, values or results, in fp16."""
        return self.heads * self.d * HALF

    @property
    def side_bytes(self) -> int:
        """Bytes of cuts, days and the bias table."""
        days = (self.queries + self.keys) * INT + self.heads * N_BUCKETS * FLOAT
        return self.queries * INT + (days if self.biased else 0)

    def arguments(self, device: torch.device) -> launch.Arguments:
        """Inputs of the kernels; with values where the device has them."""
        rows, b = (self.heads, self.d), len(self.cuts)
        queries = (self.queries,) if self.packed else (b, len(self.cuts[0]))
        keys = (sum(self.n_keys),) if self.room is None else (b, self.room)

        def integers(values: Sequence[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32, device=device)

        def half(*shape: int) -> Tensor:
            return torch.randn(*shape, *rows, dtype=torch.float16, device=device)

        table = query_day = key_day = None
        if self.biased:
            table = torch.zeros(self.heads, N_BUCKETS, device=device)
            query_day = torch.zeros(queries, dtype=torch.int32, device=device)
            key_day = torch.zeros(keys, dtype=torch.int32, device=device)
        return launch.Arguments(
            query=half(*queries),
            key=half(*keys),
            value=half(*keys),
            cut=integers([cut for cuts in self.cuts for cut in cuts]).view(queries),
            bias_table=table,
            query_day=query_day,
            key_day=key_day,
            query_offsets=integers([0, *accumulate(map(len, self.cuts))]) if self.packed else None,
            key_offsets=integers([0, *accumulate(self.n_keys)]) if self.room is None else None,
        )


def cases() -> list[Case]:
    """The shipped shape classes."""
    batch = 32
    causal = [tuple(range(1, 202))] * batch
    lengths = [152 + 7 * i % 50 for i in range(batch)]
    ragged = [tuple(range(1, n + 1)) for n in lengths]
    ends = [tuple(1 + (37 * i + 11 * b) % 201 for i in range(24)) for b in range(batch)]
    # The last layer in training: the items before the ends, and the read-outs, see the same.
    rows = [end + end for end in ends]
    pooled, append = [(201, 201)] * batch, [tuple(range(194, 202))] * batch
    full = [201] * batch
    # The smallest batch that fills every card; the ratio is the same for all.
    training, six = [tokens + end for tokens, end in zip(causal, ends, strict=True)][:6], full[:6]
    return [
        _forward("causal", Shape(causal, full, room=201), 1.40),
        _forward("causal day bias", Shape(causal, full, biased=True, room=201), 1.40),
        _forward("causal packed", Shape(ragged, lengths, biased=True, packed=True), 1.40),
        _forward("read-outs", Shape(rows, full, biased=True, room=201), 1.05),
        _forward("pooled", Shape(pooled, full, biased=True, room=201), 1.05),
        _forward("append", Shape(append, full, biased=True, room=208), 1.05),
        _backward("backward", Shape(training, six, biased=True, room=201), BACKWARD_BOUND),
        _forward("causal", Shape(causal, full, 2, 64, biased=True, room=201), 1.40, FEW),
        _forward("pooled", Shape(pooled, full, 2, 64, biased=True, room=201), 1.05, FEW),
        _backward(
            "backward", Shape(training, six, 2, 64, biased=True, room=201), BACKWARD_BOUND, FEW
        ),
    ]


def _forward(name: str, shape: Shape, bound: float, why_few_blocks: str = "") -> Case:
    return Case(
        op=OP,
        config=_config(name, shape),
        prepare=lambda device: partial(launch.forward, shape.arguments(device), None, save=False),
        ideal_bytes=(2 * shape.queries + 2 * shape.keys) * shape.row_bytes + shape.side_bytes,
        bytes_bound=bound,
        flops=4 * shape.pairs * shape.heads * shape.d,
        cached=frozenset({"bias_table_ptr"}),
        unfused=_unfused(shape),
        gathered=SCALARS,
        why_few_blocks=why_few_blocks,
    )


def _backward(name: str, shape: Shape, bound: float, why_few_blocks: str = "") -> Case:
    """The kernels of backward alone, on a result and logarithms that need not be right."""

    def prepare(device: torch.device) -> Callable[[], object]:
        arguments = shape.arguments(device)
        logsumexp = torch.zeros(shape.heads, shape.queries, device=device)
        out, grad_out = (torch.randn_like(arguments.query) for _ in range(2))
        return partial(launch.backward, arguments, out, grad_out, logsumexp)

    scalars = shape.heads * shape.queries * FLOAT
    table = shape.heads * N_BUCKETS * FLOAT
    blocks = len(shape.cuts) * -(-len(shape.cuts[0]) // 64)
    return Case(
        op=OP,
        config=_config(name, shape),
        prepare=prepare,
        # query, out, grad_out and grad_query; key, value and both gradients; logsumexp.
        ideal_bytes=4 * (shape.queries + shape.keys) * shape.row_bytes
        + shape.side_bytes + scalars + table,
        bytes_bound=bound,
        flops=10 * shape.pairs * shape.heads * shape.d,
        cached=frozenset({"bias_table_ptr"}),
        torch_bytes=(blocks + 1) * table,  # the sum of the blocks' bias gradients
        gathered=SCALARS,
        why_few_blocks=why_few_blocks,
    )  # fmt: skip


def _config(name: str, shape: Shape) -> str:
    """Name of a shape class."""
    rows = f"{len(shape.cuts[0])} of {shape.n_keys[0]}" if not shape.packed else "152-201"
    return f"{name} fp16 B{len(shape.cuts)} L{rows} H{shape.heads} d{shape.d}"


def _unfused(shape: Shape) -> tuple[Step, ...]:
    """The eager sequence on padded queries and keys, with fp16 logits and an fp32 softmax."""
    b, longest = len(shape.cuts), max(map(len, shape.cuts))
    query = b * longest * shape.row_bytes
    key = b * max(shape.n_keys) * shape.row_bytes
    pairs = b * longest * max(shape.n_keys)
    logits = pairs * shape.heads
    bias = (
        (
            Step("days: subtract, clamp, look up -> int64 buckets", 5 * 8 * pairs),
            Step("table.gather -> fp32", 8 * pairs + FLOAT * logits),
            Step("add bias, fp16 + fp32 -> fp32", (HALF + 2 * FLOAT) * logits),
        )
        if shape.biased
        else (Step("to fp32", (HALF + FLOAT) * logits),)
    )
    return (
        Step("matmul fp16 -> fp16", query + key + HALF * logits),
        Step("mul scale fp16", 2 * HALF * logits),
        *bias,
        Step("masked_fill fp32", 2 * FLOAT * logits),
        Step("softmax fp32", 2 * FLOAT * logits),
        Step("to fp16", (FLOAT + HALF) * logits),
        Step("matmul fp16 -> fp16", HALF * logits + key + query),
    )
