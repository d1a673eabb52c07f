"""Shape classes of the unfolded item rows, and the numbers that they are held to."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from kernels.case import Case, Step

from . import launch_rows

HALF, INT, LONG, FLOAT = 2, 4, 8, 4  # bytes
CACHED = frozenset(f"{name}_ptr" for name in ("tag_weight", "weight", "bias"))
GATHERED = frozenset(f"{name}_ptr" for name in ("index", "text_index", "tag_bits"))
FEW = (
    "5,000 items are 157 blocks, one wave: blocks of 16 items would read the weights twice as often"
)


@dataclass(frozen=True)
class Shape:
    """Distinct items of a batch, catalogue, texts, text width, tag width, tags, row width."""

    n: int = 5000
    items: int = 20_000
    d_e: int = 384
    d_a: int = 128
    tags: int = 1000
    d: int = 768

    def __str__(self) -> str:
        return f"fp16 n{self.n} e{self.d_e} a{self.d_a} V{self.tags} D{self.d}"

    @property
    def of_weights(self) -> int:
        """Bytes of W_attr, the projection and its bias."""
        return (self.tags * self.d_a + self.d * (self.d_e + self.d_a + 1)) * HALF

    @property
    def of_items(self) -> int:
        """Bytes of the items themselves: id, text row, Δ, words of tags."""
        return self.n * (2 * INT + 2 * self.d_e * HALF + -(-self.tags // 32) * INT)

    @property
    def of_rows(self) -> int:
        """Bytes of the rows, or of their gradient."""
        return self.n * self.d * HALF


def rows_cases() -> list[Case]:
    """Rows of a training batch and their gradients, in both widths."""
    paper = Shape()
    small = Shape(d_e=128, d_a=64, d=128)
    return [
        _forward(paper, 1.05),
        _forward(small, 1.05),
        # Tiles of columns gather their operands again from the cache: README.md.
        _backward(paper, 5.8),
        _backward(small, 4.6),
    ]


def _forward(shape: Shape, bound: float) -> Case:
    return Case(
        op="token_assembly",
        config=f"item rows {shape}",
        prepare=lambda device: partial(
            launch_rows.unfolded, **_inputs(shape, device), dtype=torch.float16
        ),
        ideal_bytes=shape.of_items + shape.of_weights + shape.of_rows,
        bytes_bound=bound,
        flops=2 * shape.n * (shape.tags * shape.d_a + (shape.d_e + shape.d_a) * shape.d),
        cached=CACHED,
        unfused=_unfused(shape),
        gathered=GATHERED,
        why_few_blocks=FEW,
    )


def _backward(shape: Shape, bound: float) -> Case:
    width = shape.d_e + shape.d_a
    of_delta = shape.items * shape.d_e * HALF
    chosen = launch_rows.config(shape.d)
    parts = chosen.tags_splits * shape.tags * shape.d_a
    parts += chosen.project_splits * shape.d * width
    # Zeros of Δ's gradient; sums of the parts; the sum of the rows' gradient for the bias.
    between = of_delta + parts * FLOAT + shape.of_weights * 3 + shape.of_rows

    def prepare(device: torch.device) -> Callable[[], object]:
        x = _inputs(shape, device)
        d_rows = x["text"].new_empty(shape.n, shape.d).fill_(1)
        del x["project_bias"]
        return partial(launch_rows.unfolded_backward, d_rows, **x)

    return Case(
        op="token_assembly",
        config=f"item rows' gradient {shape} N{shape.items}",
        prepare=prepare,
        ideal_bytes=shape.of_items + shape.of_rows + 2 * shape.of_weights + of_delta,
        bytes_bound=bound,
        flops=2 * shape.n * (3 * shape.tags * shape.d_a + 2 * width * shape.d),
        cached=CACHED,
        torch_bytes=between,
        gathered=GATHERED,
        why_few_blocks=FEW,
    )


def _unfused(shape: Shape) -> tuple[Step, ...]:
    """Eager torch in fp16 with int64 indices and tags as lists, 8 an item."""
    semantic, attribute = shape.n * shape.d_e * HALF, shape.n * shape.d_a * HALF
    return (
        Step("text[text_index[index]] fp16, int64", shape.n * 3 * LONG + 2 * semantic),
        Step("embedding of Δ fp16, int64", shape.n * LONG + 2 * semantic),
        Step("add fp16", 3 * semantic),
        Step("embedding_bag of tags fp16, int64",
             shape.n * 9 * LONG + shape.tags * shape.d_a * HALF + attribute),
        Step("cat fp16", 2 * (semantic + attribute)),
        Step("linear fp16", semantic + attribute + shape.of_weights + shape.of_rows),
    )  # fmt: skip


def _inputs(shape: Shape, device: torch.device) -> dict[str, Tensor]:
    """Arguments of the launcher; every item has a text of its own, about 8 tags."""
    make = None if device.type == "meta" else torch.Generator(device).manual_seed(0)

    def half(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.float16, generator=make)

    place = torch.arange(shape.items, device=device, dtype=torch.int32)
    words = torch.randint(
        2**30, (shape.items, -(-shape.tags // 32)), device=device, dtype=torch.int32, generator=make
    )
    return {
        "index": place[: shape.n] * (shape.items // shape.n),
        "text": half(shape.items, shape.d_e),
        "text_index": place,
        "delta": half(shape.items, shape.d_e),
        # One word in sixteen, with all of its bits in play: the bytes are the same for any tags.
        "tag_bits": torch.where(words % 16 == 0, words, 0),
        "tag_weight": half(shape.tags, shape.d_a),
        "project_weight": half(shape.d, shape.d_e + shape.d_a),
        "project_bias": half(shape.d),
    }
