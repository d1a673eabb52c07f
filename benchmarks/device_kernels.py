"""The shipped kernels and the operators on a card, and the ceilings that they stand beside."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch._dynamo.exc import FailOnRecompileLimitHit

from kernels import OPS
from kernels.launch import Launch, launch, recording
from kernels.report import cases

from . import operators
from .case import ENGINE
from .device_clock import DeviceClock
from .operators import TOLERANCE, Operator
from .stored import Row

_GIB = 1 << 30
_SIDE = 8192
OPERATORS: dict[str, Callable[[str], Operator]] = {
    "token_assembly": operators.tokens,
    "attention": partial(operators.attending, n_queries=None),
    "pooled_attention": partial(operators.attending, n_queries=2),
    "candidate_softmax": operators.losses,
    "score_topk": operators.best,
    "token_gate": operators.gated,
}


def ceilings(clock: DeviceClock) -> Iterator[Row]:
    """What the card does at most: bytes copied, products of fp16; and what it does at least."""
    source = torch.randint(0, 1 << 30, (_GIB // 4,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    taken = clock(lambda: target.copy_(source), repeats=20)
    yield _ceiling("copy", taken.in_us() | {"gb_per_s": 2 * _GIB / taken.p50 / 1e3})
    a, b = (torch.randn(_SIDE, _SIDE, device="cuda", dtype=torch.float16) for _ in range(2))
    taken = clock(lambda: a @ b, repeats=20)
    yield _ceiling("fp16 matmul", taken.in_us() | {"tflop_per_s": 2 * _SIDE**3 / taken.p50 / 1e6})
    one = torch.zeros(1, device="cuda")
    yield _ceiling("one element", clock(lambda: one.add_(1)).in_us())


def _ceiling(case: str, statistics: dict[str, float]) -> Row:
    return {"part": "ceilings", "case": case, "config": "", "way": "", "statistics": statistics}


def shipped(clock: DeviceClock) -> Iterator[Row]:
    """Every shipped configuration, whole and launch by launch; its bytes and operations."""
    for op in OPS:
        for case in cases(op):
            call = case.prepare(torch.device("cuda"))
            call()
            with recording() as launches:
                call()
            yield {
                "part": "kernels",
                "case": op,
                "config": case.config,
                "way": ENGINE,
                "statistics": clock(call).in_us(),
                "launches": [_replayed(clock, each) for each in launches],
                "ideal_bytes": case.ideal_bytes,
                "flops": case.flops,
            }


def _replayed(clock: DeviceClock, one: Launch) -> dict[str, Any]:
    again = partial(
        launch, one.kernel, one.grid, one.arguments, one.constants,
        num_warps=one.num_warps, num_stages=one.num_stages,
    )  # fmt: skip
    return {
        "kernel": one.name,
        "grid": list(one.grid),
        "warps": one.num_warps,
        **clock(again).in_us(),
    }


def compared(clock: DeviceClock) -> Iterator[Row]:
    """The operators beside what a user would pick instead; each way is checked first."""
    for name, made in OPERATORS.items():
        torch._dynamo.reset()
        operator = made("cuda")
        times = {}
        for way, call in operator.ways.items():
            if way == "faiss_flat":  # copies its answers to the host and waits
                continue
            try:
                operator.check(way, TOLERANCE["cuda"])
                times[way] = clock(call)
            except FailOnRecompileLimitHit as error:
                print(f"not run: {name} {way}: {str(error).splitlines()[0]}")
        for way, taken in times.items():
            ratio = taken.p50 / times[ENGINE].p50
            yield {
                "part": "operators",
                "case": name,
                "config": "fp16",
                "way": way,
                "statistics": taken.in_us() | {"p50_ratio": round(ratio, 4)},
                "parameters": dict(operator.parameters),
                "nbytes": operator.nbytes,
                "flops": operator.flops,
            }
