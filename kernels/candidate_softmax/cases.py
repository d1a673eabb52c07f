"""Shape classes of the candidate softmax, and the numbers that they are held to."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.case import Case, Step

from . import launch

GATHERED = frozenset(
    f"{name}_ptr"
    for name in (
        # Scalars beside each candidate's gathered row, or each position's.
        "candidates", "log_pi", "offset", "weight", "negative", "bias", "column", "words",
        "correction", "logsumexp", "d_loss", "d_sum", "d_negative", "d_offset", "order",
        "starts", "piece_starts", "piece_items",
        # One row a block: fewer than 16 bytes a thread.
        "hidden_row", "group_sums", "split_rows",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Positions, own candidates, shared items, items, dimension; hidden and items are fp16."""

    p: int
    c: int
    s: int
    n: int
    d: int

    def __str__(self) -> str:
        return f"fp16 P{self.p} C{self.c} S{self.s} N{self.n} D{self.d}"

    def inputs(self, device: torch.device) -> launch.Inputs:
        """Spread candidates without repeats, the first the target, a quarter of them negatives."""
        generator = None if device.type == "meta" else torch.Generator(device).manual_seed(0)

        def real(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.randn(shape, device=device, generator=generator).to(dtype)

        place = torch.arange(self.c, device=device)
        row = torch.arange(self.p, device=device)[:, None]
        candidates = (row * 7919 + place * (self.n // self.c)) % self.n
        weight = torch.zeros(self.p, self.c, device=device)
        weight[:, 0] = 1.0
        shared = torch.arange(self.s, device=device) * (self.n // self.s)
        return launch.Inputs.of(
            real(self.p, self.d, dtype=torch.float16),
            real(self.n, self.d, dtype=torch.float16),
            real(self.n),
            shared,
            real(self.s),
            candidates,
            real(self.p, self.c),
            real(self.p, self.c),
            weight,
            (place >= self.c - self.c // 4).expand(self.p, self.c),
        )

    @property
    def forward_bytes(self) -> int:
        """What a forward pass cannot do without: each operand once, each candidate's row once."""
        outputs = 3 * 4 * self.p
        return self.own_bytes + self.shared_bytes + 2 * self.p * self.d + outputs

    @property
    def backward_bytes(self) -> int:
        """The same again for the gradients of hidden and offset; for the items' each candidate's
        coefficient and hidden row, wherever they are summed; the three gradients."""
        entries = self.p * self.c * (4 + 2 * self.d)
        gradients = 4 * self.p * self.c + 2 * self.p * self.d + 2 * self.n * self.d
        given = 3 * 4 * self.p
        read = self.own_bytes + self.shared_bytes + 2 * self.p * self.d + given
        return read + entries + gradients

    @property
    def own_bytes(self) -> int:
        """Own candidates once: item row, id, log π, offset, weight, negative flag."""
        return self.p * self.c * (2 * self.d + 8 + 4 + 4 + 4 + 1)

    @property
    def shared_bytes(self) -> int:
        """Shared items once: row, id, log π; and the biases of all items."""
        return self.s * (2 * self.d + 8 + 4) + 4 * self.n

    @property
    def words_bytes(self) -> int:
        """Bits of the shared items that each row lists."""
        return self.p * 8 * -(-self.s // launch.TILE)

    @property
    def prepared_bytes(self) -> int:
        """What torch moves for the shared items: lookup column, copied rows, correction, words."""
        column = 4 * self.n + self.s * (8 + 4 + 4 + 4)
        rows = self.s * (8 + 4 * self.d) + self.s * (8 + 4 * 5)
        return column + rows + self.words_bytes


def cases() -> list[Case]:
    """Forward passes that are held to their gathers, and a training step."""
    return [
        _forward("sampled", Shape(768, 128, 1024, 20_000, 128), 1.25),
        # Partial sums fill a card at so few positions; they fade as positions grow.
        _step("sampled", Shape(704, 64, 1024, 1376, 128), 2.1),
        _step("sampled", Shape(704, 32, 1024, 1376, 64), 3.4),
        # Every block of positions reads the catalogue again.
        _step("catalogue", Shape(704, 16, 4096, 4096, 128), 8.0),
    ]


# 1,600 sequences of 200 positions: stated from shapes, never run here.
PAPER = Shape(320_000, 128, 1024, 20_000, 128)


def _forward(name: str, shape: Shape, bound: float) -> Case:
    return Case(
        op="candidate_softmax",
        config=f"{name} {shape}",
        prepare=lambda device: partial(launch.forward, shape.inputs(device)),
        ideal_bytes=shape.forward_bytes,
        bytes_bound=bound,
        flops=2 * shape.p * (shape.c + shape.s) * shape.d,
        cached=_cached(shape),
        torch_bytes=shape.prepared_bytes,
        unfused=_unfused(shape),
        gathered=GATHERED,
    )


def _step(name: str, shape: Shape, bound: float) -> Case:
    """Forward and backward; with the memory of a step of `PAPER`."""
    return Case(
        op="candidate_softmax",
        config=f"{name} step {shape}",
        prepare=lambda device: partial(step, shape.inputs(device)),
        ideal_bytes=shape.forward_bytes + shape.backward_bytes,
        bytes_bound=bound,
        # Logits twice, d hidden and d items once each, of both kinds of candidates.
        flops=2 * shape.p * 4 * (shape.c + shape.s) * shape.d,
        cached=_cached(shape),
        torch_bytes=2 * shape.prepared_bytes + _sort_bytes(shape),
        gathered=GATHERED,
        peak_bytes=peak_bytes(PAPER),
        unfused_peak_bytes=unfused_peak_bytes(PAPER),
        peak_bound=20,
    )


def step(x: launch.Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the mean loss, as training takes them."""
    loss, _, logsumexp, weight_sum, count = launch.forward(x)
    d_loss = torch.full_like(loss, 1 / len(loss))
    d_negative = d_loss / count.clamp(min=1)
    return launch.backward(x, d_loss, d_loss * weight_sum, d_negative, logsumexp)


def peak_bytes(shape: Shape) -> int:
    """Most memory of a step besides its inputs: gradients, what is saved, a chunk's scratch.

    All of the scratch is counted at once, which it never is, and 36 bytes for each entry that is
    sorted: id and number, before and after, and the radix sort's second buffers.
    """
    p, c, s, n, d = shape.p, shape.c, shape.s, shape.n, shape.d
    chunk = min(p, launch.ENTRIES // c)
    vectors = (5 + 4) * 4 * p
    gradients = 2 * p * d + 4 * p * c + 3 * 4 * n * d
    prepared = 4 * n + 2 * s * d + 4 * s
    words = min(8 * -(-s // launch.TILE) * p, launch.WORD_BYTES)
    blocks = launch.FULL_CARD + launch.TILE  # that write partial sums, the last round's included
    partial = 4 * d * (max(chunk, blocks * launch.TILE) + max(s, blocks * launch.TILE))
    entries = chunk * c
    pieces = (entries // launch.PIECE + n) * (4 * d + 4) + 4 * 5 * n
    return vectors + gradients + prepared + words + partial + 36 * entries + pieces


def unfused_peak_bytes(shape: Shape) -> int:
    """The same of plain torch under autograd: gathered rows in fp16 and logits in fp32, each with
    its gradient, and the mask of listed shared items."""
    gathered = 2 * shape.p * shape.c * shape.d
    logits = 4 * shape.p * (shape.c + shape.s)
    return 2 * gathered + 2 * logits + shape.p * shape.s


def _cached(shape: Shape) -> frozenset[str]:
    names = {"correction_ptr", "bias_ptr", "column_ptr"}
    if 2 * shape.s * shape.d < 1_000_000:
        names.add("rows_ptr")
    return frozenset(names)


def _sort_bytes(shape: Shape) -> int:
    """torch's sort of the entries: four passes over id and number, and their making."""
    entries = shape.p * shape.c
    return entries * (8 + 4 + 4 * 2 * (4 + 8)) + 4 * 10 * shape.n


def _unfused(shape: Shape) -> tuple[Step, ...]:
    """Forward pass of a user who gathers: fp16 products, the rest in fp32."""
    own, shared, d = shape.p * shape.c, shape.p * shape.s, shape.d
    both = own + shared
    hidden, rows = 2 * shape.p * d, 2 * shape.s * d
    return (
        Step("index_select own rows [P, C, D] fp16", own * (8 + 2 * d + 2 * d)),
        Step("bmm own logits [P, C] fp16", own * (2 * d + 2) + hidden),
        Step("mm shared logits [P, S] fp16", hidden + rows + 2 * shared),
        Step("float [P, C + S]", both * (2 + 4)),
        Step("index bias [P, C] fp32", own * (8 + 4 + 4)),
        Step("add bias, add offset, sub log π [P, C] fp32", 3 * own * 12),
        Step("add bias - log π [P, S] fp32", shared * 8),
        Step("masked_fill pads [P, C] fp32", own * (4 + 1 + 4)),
        Step("zeros, scatter listed [P, S] bool", shared + own * (8 + 1)),
        Step("masked_fill listed [P, S] fp32", shared * (4 + 1 + 4)),
        Step("cat [P, C + S] fp32", both * 8),
        Step("logsumexp: amax, sub, exp, sum [P, C + S] fp32", both * (4 + 8 + 8 + 4)),
        Step("sub, mul weight, sum [P, C] fp32", own * (8 + 12 + 4)),
        Step("softplus, mul, sum [P, C] fp32", own * (8 + 9 + 4)),
    )
