"""Specification of attention with a cut per query, in plain torch."""

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_BUCKETS = 16  # bit lengths up to 15 and 0: differences of 16,384 days and more share the last


def day_buckets(query_day: Tensor, key_day: Tensor, n_buckets: int) -> Tensor:
    """Equals min(bit_length(max(query_day - key_day, 0)), n_buckets - 1) for every pair.

    So 0 within a day (and for a key that comes later), then 1 + floor(log2(days)), capped.

    Args:
        query_day: [B, Q] int.
        key_day: [B, K] int.
    Returns:
        [B, Q, K] int64.
    """
    last = (1 << (n_buckets - 1)) >> 1  # the first difference in the last bucket
    days = (query_day[:, :, None] - key_day[:, None, :]).clamp(min=0, max=last)
    # A look-up by day: exact, and one pass where a logarithm takes several.
    by_day = torch.tensor([n.bit_length() for n in range(last + 1)], device=days.device)
    return by_day.gather(0, days.flatten().long()).view(days.shape)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    bias_table: Tensor | None = None,
    query_day: Tensor | None = None,
    key_day: Tensor | None = None,
    query_offsets: Tensor | None = None,
    key_offsets: Tensor | None = None,
) -> Tensor:
    """Equals softmax(query @ key.T / sqrt(d) + bias_table[:, buckets], over keys < cut) @ value.

    Causal attention, read-outs, pooled rows and appended tokens are one operator: query i sees the
    keys 0 … cut[i] - 1 of its sequence, whatever those are.

    Args:
        query: [B, Q, H, d], or packed [T, H, d] with `query_offsets`.
        key, value: [B, K, H, d], or packed [U, H, d] with `key_offsets`; same dtype.
        cut: [B, Q] or [T] int, 0 <= cut <= keys of the sequence; a query with cut 0 gets zeros.
        bias_table: [H, V] or None, added to the logits by `day_buckets`.
        query_day, key_day: days of the queries' and keys' rows, int; given as `bias_table` is.
        query_offsets, key_offsets: [B + 1] int32, where each packed sequence starts and ends.
    Returns:
        Like `query`; the softmax is taken in fp32 at least.

    NaN: of a query, its own row. Of a key or value row that any query of the sequence sees, maybe
    every query of that sequence and head, never another's. Rows from the sequence's largest cut on
    are not read and may hold anything.
    """
    if key_offsets is not None:
        _, row = _rows(key_offsets, key.shape[0])
        key, value = key[row], value[row]
        key_day = None if key_day is None else key_day[row]
    if query_offsets is None:
        return _padded(query, key, value, cut, bias_table, query_day, key_day)
    real, row = _rows(query_offsets, query.shape[0])
    padded_day = None if query_day is None else query_day[row]
    padded_cut = cut[row].masked_fill(~real, 0)
    return _padded(query[row], key, value, padded_cut, bias_table, padded_day, key_day)[real]


def _rows(offsets: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Which places of a padded [B, longest] layout are real, and the packed row of each."""
    lengths = offsets.diff()
    longest = int(lengths.max()) if len(lengths) else 0
    place = torch.arange(longest, device=offsets.device)
    row = (offsets[:-1, None].long() + place).clamp(max=max(n_rows - 1, 0))
    return place < lengths[:, None], row


def _padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Tensor,
    bias_table: Tensor | None,
    query_day: Tensor | None,
    key_day: Tensor | None,
) -> Tensor:
    """Attention of [B, Q, H, d] over [B, K, H, d]."""
    position = torch.arange(key.shape[1], device=key.device)
    # The column of zeros stands for a sequence without queries.
    unread = position >= F.pad(cut, (1, 0)).amax(dim=1)[:, None]  # [B, K]
    # A weight of 0 does not undo what an unread row may hold: 0 * NaN is NaN.
    key = key.masked_fill(unread[:, :, None, None], 0.0)
    value = value.masked_fill(unread[:, :, None, None], 0.0)
    # A row without keys sees the first one, which keeps its softmax finite, and gets zeros after.
    hidden = position >= cut.clamp(min=1)[:, :, None]  # [B, Q, K]

    scale = query.shape[-1] ** -0.5
    logits = (query * scale).transpose(1, 2) @ key.permute(0, 2, 3, 1)  # [B, H, Q, K]
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if bias_table is not None and query_day is not None and key_day is not None:
        n_buckets = bias_table.shape[1]
        # One more bucket, of -inf, makes bias and mask a single look-up.
        table = F.pad(bias_table, (0, 1), value=float("-inf"))
        bucket = day_buckets(query_day, key_day, n_buckets).masked_fill(hidden, n_buckets)
        rows = table[None, :, None].expand(*logits.shape[:3], n_buckets + 1)
        logits = logits + rows.gather(3, bucket[:, None].expand_as(logits))
    else:
        logits = logits.masked_fill(hidden[:, None], float("-inf"))
    weights = torch.softmax(logits, dim=-1).to(value.dtype)
    out = (weights @ value.transpose(1, 2)).transpose(1, 2)
    return out.masked_fill((cut == 0)[:, :, None, None], 0.0)
