"""Shape classes of score_topk, and the numbers that they are held to."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.case import Case, Step

from . import launch

# One float and one bit beside an item's row of 256 bytes: a warp reads them in few transactions.
GATHERED = frozenset({"bias_ptr", "mask_ptr"})


@dataclass(frozen=True)
class Shape:
    """Queries, answers, items, dimension; queries and items are fp16."""

    b: int
    k: int
    n: int = 100_000
    d: int = 128

    def __str__(self) -> str:
        return f"fp16 B{self.b} N{self.n} D{self.d} k{self.k}"

    def inputs(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Random vectors under a mask that keeps half of the items."""
        generator = None if device.type == "meta" else torch.Generator(device).manual_seed(0)

        def real(*shape: int) -> Tensor:
            return torch.randn(shape, device=device, generator=generator)

        words = (self.b, -(-self.n // launch.WORD_BITS))
        mask = torch.randint(
            -(2**31), 2**31 - 1, words, dtype=torch.int32, device=device, generator=generator
        )
        return real(self.b, self.d).half(), real(self.n, self.d).half(), real(self.n), mask, self.k

    @property
    def config(self) -> launch.Config:
        """The shape class that the kernels take."""
        return launch.choose_config(self.b, self.n, self.k)

    @property
    def answer_bytes(self) -> int:
        """Values and indices."""
        return self.b * self.k * (4 + 8)

    @property
    def ideal_bytes(self) -> int:
        """Items and biases once for every 32 queries, all else once; no intermediate lists."""
        items = -(-self.b // 32) * self.n * (2 * self.d + 4)
        return items + 4 * self.b * -(-self.n // 32) + 2 * self.b * self.d + self.answer_bytes

    @property
    def unfused(self) -> tuple[Step, ...]:
        """What a user would write, who keeps queries and items in fp32 and the mask in bool."""
        logits = 4 * self.b * self.n
        return (
            Step(
                "logits = addmm(bias, queries, items.T), all fp32",
                4 * (self.n * self.d + self.b * self.d + self.n) + logits,
            ),
            Step("masked_fill(logits fp32, mask bool, -inf)", 2 * logits + self.b * self.n),
            Step("topk(logits fp32), read once", logits + self.answer_bytes),
        )


def cases() -> list[Case]:
    """A full batch, the largest k, one block of queries, a half of one, and one request."""
    few = "one block of queries: the merge is a block a query"
    return [
        _case(Shape(256, 100), 1.10, unfused_bound=2.0),
        _case(Shape(64, 500), 1.10, why="the merge is a block a query: 64"),
        _case(Shape(32, 100), 1.10, why=few),
        _case(Shape(16, 100), 1.10, why=few),
        _case(Shape(1, 10), 1.10, why=few),
    ]


def _case(
    shape: Shape,
    bound: float,
    *,
    unfused_bound: float | None = None,
    why: str = "",
) -> Case:
    logits = 4 * shape.b * shape.n
    return Case(
        op="score_topk",
        config=str(shape),
        prepare=lambda device: partial(launch.score_topk, *shape.inputs(device)),
        ideal_bytes=shape.ideal_bytes,
        bytes_bound=bound,
        flops=2 * shape.b * shape.n * shape.d,
        unfused=shape.unfused,
        unfused_bound=unfused_bound,
        peak_bytes=8 * shape.b * shape.config.chunks * shape.config.keep + shape.answer_bytes,
        unfused_peak_bytes=2 * logits + shape.answer_bytes,
        gathered=GATHERED,
        why_few_blocks=why,
    )
