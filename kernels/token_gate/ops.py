"""The kernels as torch operators with gradients: stars::token_gate, stars::token_gate_backward."""

from typing import Any

import torch
from torch import Tensor

from . import launch


@torch.library.custom_op("stars::token_gate", mutates_args=())
def gate(
    hidden: Tensor, keys: Tensor, values: Tensor, ids: Tensor, scale: Tensor, eps: float
) -> Tensor:
    """Gated tokens; see `token_gate`."""
    return launch.gate(hidden, keys, values, ids, scale, eps)


@torch.library.custom_op("stars::token_gate_backward", mutates_args=())
def gate_backward(
    gradient: Tensor,
    hidden: Tensor,
    keys: Tensor,
    values: Tensor,
    ids: Tensor,
    scale: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of hidden, keys, values and scale from that of the result."""
    return launch.gate_backward(gradient, hidden, keys, values, ids, scale, eps)


@gate.register_fake
def _(
    hidden: Tensor, keys: Tensor, values: Tensor, ids: Tensor, scale: Tensor, eps: float
) -> Tensor:
    return torch.empty_like(hidden, memory_format=torch.contiguous_format)


@gate_backward.register_fake
def _(
    gradient: Tensor,
    hidden: Tensor,
    keys: Tensor,
    values: Tensor,
    ids: Tensor,
    scale: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    learned = (hidden, keys, values, scale)
    d_hidden, d_keys, d_values, d_scale = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in learned
    )
    return d_hidden, d_keys, d_values, d_scale


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    d_hidden, d_keys, d_values, d_scale = gate_backward(gradient, *ctx.saved_tensors, ctx.eps)
    return d_hidden, d_keys, d_values, None, d_scale, None


gate.register_autograd(_gradient, setup_context=_keep)
