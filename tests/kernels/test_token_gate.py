"""The token gate, forward: both backends against the formula and the fp64 reference."""

import math
from typing import Any

import torch
from torch import Tensor

from kernels.token_gate import token_gate


def gate_case(t: int, v: int, d: int, *, seed: int = 0) -> dict[str, Any]:
    """`t` tokens, a fifth of them without a domain token, over `v` domain tokens, fp32."""
    make = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, v, (t,), generator=make, dtype=torch.int32)
    ids[torch.rand(t, generator=make) < 0.2] = -1
    return {
        "hidden": torch.randn(t, d, generator=make),
        "keys": torch.randn(v, d, generator=make),
        "values": torch.randn(v, d, generator=make),
        "ids": ids,
        "scale": torch.rand(d, generator=make) + 0.5,
    }


def by_formula(x: dict[str, Any], eps: float = 1e-6) -> Tensor:
    """Token by token in fp64."""
    rows = []
    for h, j in zip(x["hidden"].double(), x["ids"].tolist(), strict=True):
        if j >= 0:
            k, v = x["keys"][j].double(), x["values"][j].double()
            n_h = h / math.sqrt(sum(float(a) ** 2 for a in h) / len(h) + eps)
            n_k = k / math.sqrt(sum(float(a) ** 2 for a in k) / len(k) + eps)
            z = sum(float(a * s * b) for a, s, b in zip(n_h, x["scale"].double(), n_k, strict=True))
            h = h + v / (1 + math.exp(-z / math.sqrt(len(h))))
        rows.append(h)
    return torch.stack(rows)


def test_equals_the_formula() -> None:
    x = gate_case(40, 7, 6)
    torch.testing.assert_close(token_gate(**x).double(), by_formula(x), rtol=1e-5, atol=1e-5)


def test_gradients_by_finite_differences() -> None:
    x = gate_case(9, 4, 5)
    names = ("hidden", "keys", "values", "scale")

    def of_learned(*learned: Tensor) -> Tensor:
        return token_gate(**x | dict(zip(names, learned, strict=True)))

    assert torch.autograd.gradcheck(of_learned, [x[n].double().requires_grad_() for n in names])
