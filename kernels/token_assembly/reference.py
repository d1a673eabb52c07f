"""Specification of token assembly, in plain torch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def unfolded_rows(
    text: Tensor,
    delta: Tensor,
    tag_ids: Tensor,
    tag_offsets: Tensor,
    tag_weight: Tensor,
) -> Tensor:
    """Equals concat(text + delta, Σ tag_weight[tags of the item]): the token v before projection.

    Args:
        text: [n, d_e] frozen text embedding.
        delta: [n, d_e] learned residual.
        tag_ids: [nnz] int64 tags of the items, one after the other.
        tag_offsets: [n] int64, where each item's tags start.
        tag_weight: [V, d_a] rows of W_attr, one a tag.
    Returns:
        [n, d_e + d_a].
    """
    attributes = F.embedding_bag(tag_ids, tag_weight, tag_offsets, mode="sum")
    return torch.cat([text + delta, attributes], dim=-1)


def token_assembly(
    rows: Tensor,
    user: Tensor,
    tables: Sequence[Tensor],
    indices: Sequence[Tensor],
    signals: Tensor,
    signal_weight: Tensor,
    read_out: Tensor,
    n_read_outs: int,
) -> tuple[Tensor, Tensor]:
    """Equals concat(user, rows + Σ tables[indices] + signals @ signal_weight), and user + read_out.

    Args:
        rows: [B, L, D] item rows Proj(v), gathered.
        user: [B, D] the [USER] vector, first token of every sequence.
        tables: small tables [V_i, D]: context, engagement, position, recency.
        indices: [B, L] or [1, L] int64 each, one a table.
        signals: [B, L, S] external signals of each event.
        signal_weight: [S, D].
        read_out: [D] type embedding of a read-out; it has no position.
        n_read_outs: R, read-outs a sequence.
    Returns:
        tokens [B, L + 1, D] and read_outs [B, R, D].
    """
    x = rows + signals @ signal_weight
    for table, index in zip(tables, indices, strict=True):
        x = x + F.embedding(index, table)
    tokens = torch.cat([user[:, None], x], dim=1)
    return tokens, (user + read_out)[:, None].expand(-1, n_read_outs, -1)
