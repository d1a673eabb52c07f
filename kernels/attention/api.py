"""Public attention: checks its arguments and runs the reference."""

import torch
from torch import Tensor

from kernels.checks import check_dtype, check_shape

from .reference import attention as reference


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    bias_table: Tensor | None = None,
    buckets: Tensor | None = None,
) -> Tensor:
    """Equals softmax(query @ key.T / sqrt(d) + bias_table[:, buckets], over keys < cut) @ value.

    Args:
        query: [B, H, Q, d].
        key, value: [B, H, K, d], dtype of `query`.
        cut: [B, Q] int64, 0 <= cut <= K; a query with cut 0 gets zeros.
        bias_table: [H, V] or None.
        buckets: [B, Q, K] int64 in [0, V); given exactly when `bias_table` is.
    Returns:
        [B, H, Q, d], dtype of `query`.
    Raises:
        ValueError, TypeError: a shape or dtype outside the above; names the argument.
    Exactness: fp32 softmax; each query's result does not depend on the rest of the batch.
    """
    b, h, q, d = query.shape
    k = key.shape[2]
    check_shape("attention", "key", key, (b, h, k, d))
    check_shape("attention", "value", value, (b, h, k, d))
    check_shape("attention", "cut", cut, (b, q))
    check_dtype("attention", "key", key, query.dtype)
    check_dtype("attention", "value", value, query.dtype)
    check_dtype("attention", "cut", cut, torch.int64)
    if (bias_table is None) != (buckets is None):
        given = "bias_table" if buckets is None else "buckets"
        raise ValueError(f"attention: expected bias_table and buckets together, got only {given}")
    if bias_table is not None and buckets is not None:
        check_shape("attention", "bias_table", bias_table, (h, bias_table.shape[-1]))
        check_shape("attention", "buckets", buckets, (b, q, k))
        check_dtype("attention", "buckets", buckets, torch.int64)
    return reference(query, key, value, cut, bias_table, buckets)
