"""Inputs of token assembly for its tests, and what both backends make of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from kernels.backend import Backend
from kernels.token_assembly import Assembled, pack_tags, token_assembly, unfolded_rows

LEARNED = ("rows", "user", "table", "signal_weight", "read_out")
LEARNED_OF_ROWS = ("delta", "tag_weight", "project_weight", "project_bias")


def token_case(
    counts: list[int],
    *,
    ragged: bool = False,
    gather: bool = True,
    norm: bool = False,
    d: int = 20,
    codes: int = 3,
    signals: int = 2,
    read_outs: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Sequences of `counts` events, fp32; padded to the longest, or packed. 7 items, 11 codes."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make)

    def below(n: int, *shape: int) -> Tensor:
        return torch.randint(0, n, shape, generator=make, dtype=torch.int32)

    b, length = len(counts), max(counts, default=0)
    events = (sum(counts),) if ragged else (b, length)
    r = b if read_outs is None else read_outs if b else 0
    return {
        "rows": normal(7, d) if gather else normal(*events, d),
        "index": below(7, *events) if gather else None,
        "user": normal(b, d),
        "table": normal(11, d),
        "codes": below(11, *events, codes),
        "signals": normal(*events, signals),
        "signal_weight": normal(signals, d),
        "read_out": normal(d),
        "read_sequence": None if read_outs is None else below(max(b, 1), r),
        "ends": below(length + 1, r),
        "offsets": torch.tensor([0, *counts]).cumsum(0).int() if ragged else None,
        "norm": (normal(d), normal(d)) if norm else None,
    }


def rows_case(
    n: int,
    *,
    items: int = 13,
    d_e: int = 20,
    d_a: int = 6,
    tags: int = 70,
    d: int = 24,
    seed: int = 0,
) -> dict[str, Any]:
    """`n` distinct of `items` items over 5 texts, each with 0 to 4 tags, fp32."""
    make = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 5 if tags else 1, (items,), generator=make)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    ids = torch.randint(0, max(tags, 1), (int(offsets[-1]),), generator=make)
    return {
        "index": torch.randperm(items, generator=make)[:n],
        "text": torch.randn(5, d_e, generator=make),
        "text_index": torch.randint(0, 5, (items,), generator=make),
        "delta": torch.randn(items, d_e, generator=make),
        "tags": pack_tags(ids, offsets, tags),
        "tag_weight": torch.randn(tags, d_a, generator=make),
        "project_weight": torch.randn(d, d_e + d_a, generator=make),
        "project_bias": torch.randn(d, generator=make),
    }


def cast(case: Any, *to: Any) -> Any:
    """Every floating tensor to a dtype, or every tensor to a device."""
    if isinstance(case, Tensor):
        return case.to(*to) if case.is_floating_point() or not _is_dtype(to[0]) else case
    if isinstance(case, dict):
        return {name: cast(value, *to) for name, value in case.items()}
    if isinstance(case, tuple):
        parts = [cast(value, *to) for value in case]
        return type(case)(*parts) if hasattr(case, "_fields") else tuple(parts)
    return case


@contextmanager
def poisoned(launcher: ModuleType) -> Iterator[None]:
    """The launcher's outputs start as NaN or -7, and canaries behind them must live on."""
    canaries = []

    def allocate(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or like.dtype
        size = torch.Size(shape).numel()
        fill = float("nan") if dtype.is_floating_point else -7
        buffer = torch.full((size + 64,), fill, dtype=dtype, device=like.device)
        buffer[size:] = 77
        canaries.append(buffer[size:])
        return buffer[:size].view(shape)

    with patch.object(launcher, "allocate", allocate):
        yield
    assert canaries
    assert all(bool((behind == 77).all()) for behind in canaries)


def _is_dtype(value: Any) -> bool:
    return isinstance(value, torch.dtype)


def assembled(case: dict[str, Any], backend: Backend) -> Assembled:
    return token_assembly(**case, backend=backend)


def gradients(case: dict[str, Any], backend: Backend) -> dict[str, Tensor]:
    """Outputs and gradients of all that is learned, for a fixed gradient of the outputs."""
    op, names = (unfolded_rows, LEARNED_OF_ROWS) if "delta" in case else (token_assembly, LEARNED)
    case = case | {name: case[name].detach().clone().requires_grad_() for name in names}
    learned = {name: case[name] for name in names}
    if case.get("norm"):
        case["norm"] = tuple(value.detach().clone().requires_grad_() for value in case["norm"])
        learned |= {"norm weight": case["norm"][0], "norm bias": case["norm"][1]}
    result: Any = op(**case, backend=backend)
    outputs = {"rows out": result} if isinstance(result, Tensor) else result._asdict()
    total = torch.zeros((), dtype=torch.float64, device=case[names[0]].device)
    make = torch.Generator().manual_seed(5)
    for out in outputs.values():
        if out.is_floating_point():
            weight = torch.randn(out.shape, generator=make).half().to(out.device)
            total = total + (out * weight.to(out.dtype)).double().sum()
    total.backward()  # type: ignore[no-untyped-call]
    found = {name: value.detach() for name, value in outputs.items()}
    for name, value in learned.items():
        assert value.grad is not None, name
        found[f"d {name}"] = value.grad
    return found
