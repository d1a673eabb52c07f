"""Specification of score_topk, in plain torch."""

from typing import NamedTuple

import torch
from torch import Tensor

WORD_BITS = 32


class TopK(NamedTuple):
    """Scores [B, k] fp32, descending, and items [B, k] int64; -inf and -1 where fewer qualify."""

    values: Tensor
    indices: Tensor


def score_topk(queries: Tensor, items: Tensor, bias: Tensor, mask: Tensor | None, k: int) -> TopK:
    """Equals torch.topk((queries @ items.T + bias).masked_fill(~mask, -inf), k), ties to the lower.

    An item qualifies for a query where its bit is set and its score is neither NaN nor -inf: a
    query or an item that holds NaN spoils its own scores only. 0.0 and -0.0 are equal.

    Args:
        queries: [B, D].
        items: [N, D], same dtype.
        bias: [N].
        mask: [B, ceil(N / 32)] int32 words, bit j of word w is item 32 w + j; None keeps all. Bits
            past the last item are not read.
        k: at least 1, may exceed N.
    Returns:
        TopK of [B, k]; products and sums are taken in fp32, in fp64 for fp64 queries.
    """
    wide = torch.float64 if queries.dtype == torch.float64 else torch.float32
    n = items.shape[0]
    scores = queries.to(wide) @ items.to(wide).T + bias  # [B, N]
    keep = ~scores.isnan()
    if mask is not None:
        bits = mask[:, :, None] >> torch.arange(WORD_BITS, device=mask.device, dtype=torch.int32)
        keep &= (bits & 1).flatten(1)[:, :n] != 0
    scores = scores.masked_fill(~keep, float("-inf"))
    scores = torch.nn.functional.pad(scores, (0, max(k - n, 0)), value=float("-inf"))
    values, indices = torch.sort(scores, dim=1, descending=True, stable=True)
    values, indices = values[:, :k], indices[:, :k]
    return TopK(values, indices.masked_fill(values == float("-inf"), -1))
