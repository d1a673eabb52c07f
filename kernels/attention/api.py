"""Public attention: checks its arguments, chooses a backend, and gives the kernels a gradient."""

from typing import Any

import torch
from torch import Tensor

from kernels.backend import Backend, Choice, choose
from kernels.checks import check_dtype, check_shape

from . import launch
from .reference import MAX_BUCKETS
from .reference import attention as reference

OP = "attention"
KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    *,
    bias_table: Tensor | None = None,
    query_day: Tensor | None = None,
    key_day: Tensor | None = None,
    query_offsets: Tensor | None = None,
    key_offsets: Tensor | None = None,
    max_queries: int | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Equals softmax(query @ key.T / sqrt(d) + bias_table[:, buckets], over keys < cut) @ value.

    A bucket is min(bit_length(max(query_day - key_day, 0)), V - 1): 0 within a day, then
    1 + floor(log2(days)).

    Args:
        query: [B, Q, H, d] fp16/bf16/fp32, or packed [T, H, d] with `query_offsets`; the last
            dimension contiguous, other strides free.
        key, value: [B, K, H, d], or packed [U, H, d] with `key_offsets`; dtype of `query`. Rows
            that no query of a sequence sees are not read: a cache may be longer than its user.
        cut: [B, Q] or [T] int32/int64, 0 <= cut <= keys of the sequence; query i sees the keys
            0 … cut[i] - 1, and gets zeros with cut 0.
        bias_table: [H, V] floating, V <= 16, or None.
        query_day, key_day: int32/int64 days of the rows of query and key, |day| < 2^23; given
            exactly when `bias_table` is.
        query_offsets, key_offsets: [B + 1] int32, from 0 to T and U, ascending.
        max_queries: for packed queries, the most of one sequence, where known: picks the kernel's
            configuration and is not checked against the offsets.
        backend: see `explain`.
    Returns:
        Like `query`, contiguous or a transposed view of it.
    Raises:
        ValueError, TypeError: an argument outside the above; names it.
        BackendUnavailable: "triton" was asked for and cannot run.
    Exactness: fp32 softmax and accumulation; the kernels give a sequence the same bits whatever
        else is in the batch and every time, for equal padded Q (or `max_queries`) up to 16, up
        to 64, or more.
    """
    _check(query, key, value, cut, bias_table, query_day, key_day, query_offsets, key_offsets)
    choice = explain(query, backend=backend)
    tensors = (
        query, key, value, cut, bias_table, query_day, key_day, query_offsets, key_offsets,
    )  # fmt: skip
    if choice.backend == "reference":
        return reference(*tensors)
    learned = (query, key, value, bias_table)
    save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in learned)
    out: Tensor = _forward(*tensors, max_queries, save)[0]
    return out


def explain(query: Tensor, *, backend: Backend = "auto") -> Choice:
    """The backend that `attention` runs for such a query, and why.

    Raises:
        ValueError, BackendUnavailable: see `kernels.backend.choose`.
    """
    unsupported = None
    if query.dtype not in KERNEL_DTYPES:
        unsupported = f"the kernel takes {', '.join(map(str, KERNEL_DTYPES))}, got {query.dtype}"
    elif not launch.supports_head(query.shape[-1]):
        unsupported = (
            "the kernel takes a head of 16 to 128 dimensions that is one power of two from 16, "
            f"or the sum of two, got {query.shape[-1]}"
        )
    return choose(OP, backend, query.device, unsupported)


def _check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    bias_table: Tensor | None,
    query_day: Tensor | None,
    key_day: Tensor | None,
    query_offsets: Tensor | None,
    key_offsets: Tensor | None,
) -> None:
    """Raises ValueError or TypeError for the first argument that does not fit the others."""
    _check_rows("query", query, query_offsets)
    _check_rows("key", key, key_offsets)
    h, d = query.shape[-2:]
    check_shape(OP, "key", key, (*key.shape[:-2], h, d))
    check_shape(OP, "value", value, tuple(key.shape))
    for name, tensor in (("key", key), ("value", value)):
        check_dtype(OP, name, tensor, query.dtype)
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if tensor.stride(-1) != 1 and d > 1:
            raise ValueError(
                f"{OP}: {name}: expected a contiguous last dimension, "
                f"got strides {tuple(tensor.stride())}"
            )
    n_query = _sequences(query, query_offsets)
    n_key = _sequences(key, key_offsets)
    if n_query != n_key:
        raise ValueError(f"{OP}: key: expected {n_query} sequences like query, got {n_key}")
    check_shape(OP, "cut", cut, tuple(query.shape[:-2]))
    _check_integer("cut", cut)
    given = {"bias_table": bias_table, "query_day": query_day, "key_day": key_day}
    if bias_table is None or query_day is None or key_day is None:
        names = [name for name, tensor in given.items() if tensor is not None]
        if names:
            raise ValueError(
                f"{OP}: expected bias_table, query_day and key_day together, "
                f"got only {' and '.join(names)}"
            )
        return
    check_shape(OP, "bias_table", bias_table, (h, bias_table.shape[-1]))
    if not 1 <= bias_table.shape[1] <= MAX_BUCKETS:
        raise ValueError(
            f"{OP}: bias_table: expected 1 to {MAX_BUCKETS} buckets, got {bias_table.shape[1]}"
        )
    check_shape(OP, "query_day", query_day, tuple(query.shape[:-2]))
    check_shape(OP, "key_day", key_day, tuple(key.shape[:-2]))
    _check_integer("query_day", query_day)
    _check_integer("key_day", key_day)


def _check_rows(name: str, rows: Tensor, offsets: Tensor | None) -> None:
    """Raises unless `rows` is padded and alone, or packed and has offsets."""
    dimensions = 4 if offsets is None else 3
    if rows.dim() != dimensions:
        form = "[B, rows, H, d]" if offsets is None else f"[rows, H, d] with {name}_offsets"
        raise ValueError(f"{OP}: {name}: expected {form}, got shape {tuple(rows.shape)}")
    if offsets is not None:
        if offsets.dim() != 1 or not offsets.numel():
            raise ValueError(
                f"{OP}: {name}_offsets: expected [B + 1], got shape {tuple(offsets.shape)}"
            )
        check_dtype(OP, f"{name}_offsets", offsets, torch.int32)


def _check_integer(name: str, tensor: Tensor) -> None:
    """Raises TypeError unless `tensor` holds int32 or int64."""
    if tensor.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{OP}: {name}: expected torch.int32 or torch.int64, got {tensor.dtype}")


def _sequences(rows: Tensor, offsets: Tensor | None) -> int:
    """Sequences of a padded or packed tensor."""
    return rows.shape[0] if offsets is None else offsets.shape[0] - 1


@torch.library.custom_op("stars::attention", mutates_args=())
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    bias_table: Tensor | None,
    query_day: Tensor | None,
    key_day: Tensor | None,
    query_offsets: Tensor | None,
    key_offsets: Tensor | None,
    max_queries: int | None,
    save: bool,
) -> tuple[Tensor, Tensor]:
    arguments = launch.Arguments(
        query, key, value, cut, bias_table, query_day, key_day, query_offsets, key_offsets
    )
    return launch.forward(arguments, max_queries, save)


@_forward.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    bias_table: Tensor | None,
    query_day: Tensor | None,
    key_day: Tensor | None,
    query_offsets: Tensor | None,
    key_offsets: Tensor | None,
    max_queries: int | None,
    save: bool,
) -> tuple[Tensor, Tensor]:
    logsumexp = query.new_empty(query.shape[-2], cut.numel() if save else 0, dtype=torch.float32)
    return query.new_empty(query.shape), logsumexp


@torch.library.custom_op("stars::attention_backward", mutates_args=())
def _backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    bias_table: Tensor | None,
    query_day: Tensor | None,
    key_day: Tensor | None,
    query_offsets: Tensor | None,
    key_offsets: Tensor | None,
    out: Tensor,
    grad_out: Tensor,
    logsumexp: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    arguments = launch.Arguments(
        query, key, value, cut, bias_table, query_day, key_day, query_offsets, key_offsets
    )
    return launch.backward(arguments, out, grad_out, logsumexp)


@_backward.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    bias_table: Tensor | None,
    query_day: Tensor | None,
    key_day: Tensor | None,
    query_offsets: Tensor | None,
    key_offsets: Tensor | None,
    out: Tensor,
    grad_out: Tensor,
    logsumexp: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_table = (
        query.new_empty(0, dtype=torch.float32)
        if bias_table is None
        else bias_table.new_empty(bias_table.shape)
    )
    return (
        query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape),
        grad_table,
    )  # fmt: skip


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Keeps what backward reads."""
    out, logsumexp = output
    ctx.mark_non_differentiable(logsumexp)
    ctx.save_for_backward(*inputs[:9], out, logsumexp)


def _gradient(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of query, key, value and the bias table."""
    *tensors, out, logsumexp = ctx.saved_tensors
    if logsumexp.numel() != out.numel() // max(out.shape[-1], 1):
        raise ValueError(f"{OP}: save: expected True where a gradient is asked for, got False")
    query, key, value, table = _backward(*tensors, out, grad_out, logsumexp)
    grad_table = None if tensors[4] is None else table
    return (query, key, value, None, grad_table, *[None] * 6)


_forward.register_autograd(_gradient, setup_context=_setup)
