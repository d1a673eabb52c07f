"""Exact numbers of the kernels: `python -m benchmarks.kernel_numbers bytes|resources|results`.

Prints one JSON object. Triton's compiler and its interpreter exclude each other in a process and
are chosen when a kernel's module is imported, so this runs in processes of its own, and imports no
kernel before it has chosen.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EPS = 1e-5  # what a result that torch happens to hit exactly may still be off by
# A shipped configuration of each operator that is quick to interpret; candidate_softmax takes
# minutes. `stars kernels report`, which the tests run, has all.
TRACED = {
    "token_assembly": "folded padded fp16 B32 L200 D128 V305 S6",
    "attention": "pooled fp16 B32 L2 of 201 H2 d64",
    "score_topk": "fp16 B1 N100000 D128 k10",
    "token_gate": "gate fp16 T12288 V1000 D64",
}


def numbers(which: str) -> dict[str, float]:
    """What the command prints. Raises CalledProcessError, its output on stderr, where it fails."""
    command = [sys.executable, "-m", "benchmarks.kernel_numbers", which]
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def moved_bytes() -> dict[str, float]:
    """bytes_ratio_<op> of a configuration of each, over_bound of them all.

    Bytes that the kernels move over the least that they could, counted in the interpreter;
    over_bound is the largest part of its own bound, at most 1.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    import torch

    from kernels.report import cases
    from kernels.trace import tracing

    torch.set_num_threads(1)
    ratios, over = {}, 0.0
    for op, config in TRACED.items():
        (case,) = (case for case in cases(op) if case.config == config)
        with tracing() as launches:
            case.run(torch.device("cpu"))
        moved = sum(launch.moved_bytes(case.cached) for launch in launches) + case.torch_bytes
        ratios[f"bytes_ratio_{op}"] = moved / case.ideal_bytes
        over = max(over, ratios[f"bytes_ratio_{op}"] / case.bytes_bound)
    return {**ratios, "over_bound": over}


def resources() -> dict[str, float]:
    """spill_bytes_sm<n> and spill_bytes of all; breaches of any rule of `stars kernels compile`."""
    from kernels import OPS
    from kernels.cards import CARDS
    from kernels.report import report

    rows = report(OPS, tuple(CARDS), trace=False)
    spills = {sm: max(row.spill_bytes for row in rows if row.sm == sm) for sm in CARDS}
    return {
        **{f"spill_bytes_sm{sm}": spilled for sm, spilled in spills.items()},
        "spill_bytes": max(spills.values()),
        "breaches": sum(len(row.breaches) for row in rows),
    }


def results() -> dict[str, float]:
    """Kernels in the interpreter against their references, at small shapes.

    error_<op>: the largest difference from fp64, over twice that of torch in the same dtype: at
    most 1. wrong_items: of score_topk, on sums that are exact.
    """
    os.environ["TRITON_INTERPRET"] = "1"
    import torch

    torch.set_num_threads(1)
    errors = {f"error_{name}": _error(make, torch) for name, make in OPERATORS.items()}
    return {**errors, "wrong_items": float(_wrong_items(torch))}


def _error(make: Callable[[Any], Callable[..., Any]], torch: Any) -> float:
    """The kernel's largest error over twice torch's own in the same dtype: at most 1 is as good."""
    call = make(torch)
    truth = call(torch.float64, "reference")
    same, got = call(torch.float16, "reference"), call(torch.float16, "triton")
    error, own = (float((each.double() - truth).abs().max()) for each in (got, same))
    allowed = 2 * own + EPS + torch.finfo(torch.float16).eps * float(truth.abs().max())
    return error / allowed if error == error else float("inf")  # NaN is as wrong as can be


def _tokens(torch: Any) -> Callable[..., Any]:
    from kernels.token_assembly import token_assembly

    b, length, d = 3, 17, 40
    real = _normal(torch)
    rows, user, table = real(50, d), real(b, d), real(11, d)
    signals, weight, read_out = real(b, length, 4), real(4, d), real(d)
    index = torch.randint(0, 50, (b, length))
    codes = torch.randint(0, 11, (b, length, 6))
    ends = torch.tensor([17, 5, 0])

    def call(dtype: Any, backend: Any) -> Any:
        x, u, t, s, w, r = (v.to(dtype) for v in (rows, user, table, signals, weight, read_out))
        return token_assembly(x, index, u, t, codes, s, w, r, None, ends, backend=backend).tokens

    return call


def _attention(torch: Any) -> Callable[..., Any]:
    from kernels.attention import attention

    b, n, heads, d = 2, 67, 2, 32
    real = _normal(torch)
    q, k, v = (real(b, n, heads, d) for _ in range(3))
    cut = torch.arange(1, n + 1).expand(b, n)

    def call(dtype: Any, backend: Any) -> Any:
        return attention(q.to(dtype), k.to(dtype), v.to(dtype), cut, backend=backend)

    return call


def _softmax(torch: Any) -> Callable[..., Any]:
    from kernels.candidate_softmax import candidate_softmax

    p, c, s, n, d = 37, 9, 48, 300, 32
    real = _normal(torch)
    hidden, items = real(p, d) / 4, real(n, d)
    own = (torch.arange(p)[:, None] * 7 + torch.arange(c) * (n // c)) % n
    weight = torch.zeros(p, c)
    weight[:, 0] = 1.0

    def call(dtype: Any, backend: Any) -> Any:
        # The lists stay fp32, as the operator takes them; fp64 is the truth's.
        lists = torch.float64 if dtype == torch.float64 else torch.float32
        zeros = torch.zeros(p, c, dtype=lists)
        return candidate_softmax(
            hidden.to(dtype), items.to(dtype), torch.zeros(n, dtype=lists),
            torch.arange(s) * (n // s), torch.zeros(s, dtype=lists), own, zeros, zeros,
            weight.to(lists), torch.zeros(p, c, dtype=torch.bool), backend=backend,
        ).loss  # fmt: skip

    return call


def _gate(torch: Any) -> Callable[..., Any]:
    from kernels.token_gate import token_gate

    t, v, d = 67, 11, 40
    real = _normal(torch)
    hidden, keys, values = real(t, d), real(v, d), real(v, d)
    ids = (torch.arange(t) % (v + 1) - 1).int()

    def call(dtype: Any, backend: Any) -> Any:
        # The scale stays fp32, as the operator takes it; fp64 is the truth's.
        scale = torch.ones(d, dtype=torch.promote_types(dtype, torch.float32))
        x, k, w = (each.to(dtype) for each in (hidden, keys, values))
        return token_gate(x, k, w, ids, scale, backend=backend)

    return call


def _wrong_items(torch: Any) -> int:
    """Places where the kernel's items are not the reference's, on small whole numbers."""
    from kernels.score_topk import score_topk

    make = torch.Generator().manual_seed(0)
    queries, items = (torch.randint(-3, 4, (n, 64), generator=make).half() for n in (5, 1000))
    bias = torch.randint(-3, 4, (1000,), generator=make).float()
    ours, theirs = (
        score_topk(queries, items, bias, None, 10, backend=backend).indices
        for backend in ("triton", "reference")
    )
    return int((ours != theirs).sum())


def _normal(torch: Any) -> Callable[..., Any]:
    """Standard normal numbers that fp16 holds exactly, so that every dtype has the same inputs."""
    make = torch.Generator().manual_seed(0)
    return lambda *shape: torch.randn(shape, generator=make).half().float()


OPERATORS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "token_assembly": _tokens,
    "attention": _attention,
    "candidate_softmax": _softmax,
    "token_gate": _gate,
}


WHICH = {"bytes": moved_bytes, "resources": resources, "results": results}

if __name__ == "__main__":
    print(json.dumps(WHICH[sys.argv[1]]()))
