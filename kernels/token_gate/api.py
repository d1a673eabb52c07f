"""Public token gate: checks its arguments and chooses a backend."""

import torch
from torch import Tensor

from kernels.backend import Backend, Choice, choose
from kernels.checks import check_dtype, check_shape

from . import reference

OP = "token_gate"


def token_gate(
    hidden: Tensor,
    keys: Tensor,
    values: Tensor,
    ids: Tensor,
    scale: Tensor,
    eps: float = 1e-6,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Equals h + σ((RMSNorm(h) * scale)·RMSNorm(keys[j]) / √D) values[j], j = ids[t], h if j < 0.

    Args:
        hidden: [T, D] fp16/bf16/fp32 base tokens.
        keys, values: [V, D] fp16/bf16/fp32, V at least 1; their dtypes may differ from `hidden`'s.
        ids: [T] int32, below V, and below 0 for a token without a domain token. The upper end is
            not checked: that would wait for the device.
        scale: [D] fp32, the product of both norms' weights.
        eps: of both norms, added to the mean square; above 0.
        backend: "auto" is the kernels on CUDA and the reference elsewhere; see `explain`.
    Returns:
        [T, D], dtype of `hidden`.
    Raises:
        ValueError, TypeError: an argument outside the above; names it.
        BackendUnavailable: "triton" was asked for and cannot run these arguments.
    """
    _check(hidden, keys, values, ids, scale, eps)
    explain(hidden, keys, values, scale, backend=backend)
    return reference.token_gate(hidden, keys, values, ids, scale, eps)


def explain(
    hidden: Tensor, keys: Tensor, values: Tensor, scale: Tensor, *, backend: Backend = "auto"
) -> Choice:
    """The backend that `token_gate` runs for such arguments, and why.

    Raises:
        BackendUnavailable, ValueError: as `kernels.backend.choose`.
    """
    return choose(OP, backend, hidden.device, "its kernels are not there")


def _check(
    hidden: Tensor, keys: Tensor, values: Tensor, ids: Tensor, scale: Tensor, eps: float
) -> None:
    """Raises unless shapes, dtypes and eps are what `token_gate` states."""
    if hidden.ndim != 2 or hidden.shape[1] == 0:
        raise ValueError(
            f"{OP}: hidden: expected shape (T, D) with D at least 1, got {tuple(hidden.shape)}"
        )
    n_tokens, d = hidden.shape
    if keys.ndim != 2 or keys.shape[0] == 0:
        raise ValueError(
            f"{OP}: keys: expected shape (V, {d}) with V at least 1, got {tuple(keys.shape)}"
        )
    check_shape(OP, "keys", keys, (keys.shape[0], d))
    check_shape(OP, "values", values, tuple(keys.shape))
    check_shape(OP, "ids", ids, (n_tokens,))
    check_dtype(OP, "ids", ids, torch.int32)
    check_shape(OP, "scale", scale, (d,))
    if not eps > 0:
        raise ValueError(f"{OP}: eps: expected above 0, got {eps}")
