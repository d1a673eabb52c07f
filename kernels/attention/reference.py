"""Specification of attention with a cut per query, in plain torch."""

import torch
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    bias_table: Tensor | None = None,
    buckets: Tensor | None = None,
) -> Tensor:
    """Equals softmax(query @ key.T / sqrt(d) + bias_table[:, buckets], over keys < cut) @ value.

    Causal attention, read-outs, pooled rows and appended tokens are one operator: query i sees the
    keys 0 … cut[i] - 1, whatever those are.

    Args:
        query: [B, H, Q, d].
        key, value: [B, H, K, d], same dtype.
        cut: [B, Q] int64, 0 <= cut <= K; a query with cut 0 gets zeros.
        bias_table: [H, V] or None, added to the logits by bucket.
        buckets: [B, Q, K] int64 in [0, V); given exactly when `bias_table` is.
    Returns:
        [B, H, Q, d], dtype of `query`; the softmax is taken in fp32 at least.
    """
    scale = query.shape[-1] ** -0.5
    logits = (query * scale) @ key.transpose(-1, -2)  # [B, H, Q, K]
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if bias_table is not None and buckets is not None:
        shape = (*logits.shape[:3], bias_table.shape[1])
        rows = bias_table[None, :, None].expand(shape)
        logits = logits + rows.gather(3, buckets[:, None].expand_as(logits))
    visible = torch.arange(key.shape[2], device=key.device) < cut[:, None, :, None]  # [B, 1, Q, K]
    logits = logits.masked_fill(~visible, float("-inf"))
    # A row without keys is all -inf; its softmax would be NaN.
    weights = torch.softmax(logits, dim=-1).masked_fill(cut[:, None, :, None] == 0, 0.0)
    return weights.to(value.dtype) @ value
