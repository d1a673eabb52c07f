"""Public token gate: checks its arguments and chooses a backend."""

import torch
from torch import Tensor

from kernels.backend import Backend, Choice, choose, interpreting
from kernels.checks import check_dtype, check_shape

from . import reference
from .launch import MAX_DIMENSION
from .ops import gate

OP = "token_gate"
KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


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
    """Equals h + σ((RMSNorm(h) * scale)·RMSNorm(keys[j]) / √D) values[j], j = ids[t]; h if j = -1.

    Args:
        hidden: [T, D] fp16/bf16/fp32 base tokens.
        keys, values: [V, D] fp16/bf16/fp32, V at least 1; their dtypes may differ from `hidden`'s.
        ids: [T] int32 domain token of each base token, -1 for none. That they are below V is not
            checked: that would wait for the device.
        scale: [D] fp32, the product of both norms' weights.
        eps: of both norms, added to the mean square; above 0.
        backend: "auto" is the kernels on CUDA and the reference elsewhere; see `explain`.
    Returns:
        [T, D], dtype of `hidden`.
    Raises:
        ValueError, TypeError: an argument outside the above; names it.
        BackendUnavailable: "triton" was asked for and cannot run these arguments.
    Exactness: fp32 sums, one rounding; no atomics, so the same bits every time. A token, and the
        gradient of a row of the tables, do not change with what else is in the batch.
        Differentiable in hidden, keys, values and scale.
    """
    _check(hidden, keys, values, ids, scale, eps)
    if explain(hidden, keys, values, scale, backend=backend).backend == "reference":
        return reference.token_gate(hidden, keys, values, ids, scale, eps)
    gated: Tensor = gate(hidden, keys, values, ids, scale, eps)
    return gated


def explain(
    hidden: Tensor, keys: Tensor, values: Tensor, scale: Tensor, *, backend: Backend = "auto"
) -> Choice:
    """The backend that `token_gate` runs for such arguments, and why.

    Raises:
        BackendUnavailable, ValueError: as `kernels.backend.choose`.
    """
    unsupported = None
    dtypes = [x.dtype for x in (hidden, keys, values)]
    if others := [dtype for dtype in dtypes if dtype not in KERNEL_DTYPES]:
        unsupported = f"the kernels take fp16, bf16 and fp32, got {others[0]}"
    elif scale.dtype != torch.float32:
        unsupported = f"the kernels take the scale in fp32, not {scale.dtype}"
    elif hidden.shape[1] > MAX_DIMENSION:
        unsupported = f"the kernels take up to {MAX_DIMENSION} columns, got {hidden.shape[1]}"
    elif torch.bfloat16 in dtypes and hidden.device.type == "cpu" and interpreting():
        unsupported = "Triton's interpreter computes bf16 wrongly"
    return choose(OP, backend, hidden.device, unsupported)


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
