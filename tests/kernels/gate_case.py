"""Inputs of the token gate for its tests, and what both backends make of them."""

from typing import Any

import torch
from torch import Tensor

from kernels.backend import Backend
from kernels.token_gate import token_gate
from tests.kernels.token_case import cast

LEARNED = ("hidden", "keys", "values", "scale")


def gate_case(t: int, v: int, d: int, *, seed: int = 0) -> dict[str, Any]:
    """`t` tokens, about a fifth of them without a domain token, of `v` domain tokens, fp32."""
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


def of_dtype(x: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Every floating tensor in `dtype`, but the scale in fp32 at least."""
    wide = torch.promote_types(dtype, torch.float32)
    return cast(x, dtype) | {"scale": x["scale"].to(dtype).to(wide)}


def gradients(x: dict[str, Any], backend: Backend) -> dict[str, Tensor]:
    """The result and every gradient, for a fixed gradient of the result."""
    learned = {name: x[name].detach().clone().requires_grad_() for name in LEARNED}
    out = token_gate(**x | learned, backend=backend)
    make = torch.Generator().manual_seed(5)
    # Numbers that fp16 holds, so that every dtype has the same gradient.
    gradient = torch.randn(out.shape, generator=make).half().to(out.device, out.dtype)
    found = torch.autograd.grad(out, list(learned.values()), gradient)
    return {"out": out.detach(), **dict(zip(LEARNED, found, strict=True))}
