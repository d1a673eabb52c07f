"""Specification of token assembly, in plain torch."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .tags import Tags


class Assembled(NamedTuple):
    """Tokens [B, L + 1, D] or packed [T + B, D], read_outs [R, D], cuts [R]."""

    tokens: Tensor
    read_outs: Tensor
    cuts: Tensor


def token_assembly(
    rows: Tensor,
    index: Tensor | None,
    user: Tensor,
    table: Tensor,
    codes: Tensor,
    signals: Tensor,
    signal_weight: Tensor,
    read_out: Tensor,
    read_sequence: Tensor | None,
    ends: Tensor,
    offsets: Tensor | None = None,
    norm: tuple[Tensor, Tensor] | None = None,
    eps: float = 1e-5,
) -> Assembled:
    """Equals concat(user, rows[index] + Σ table[codes] + signals @ signal_weight), user + read_out.

    A NaN in a row reaches the tokens that gather that row, no other. Backward, one in a token's
    gradient reaches of `rows` and `user` the token's own alone; `table` and `signal_weight` sum
    over tokens, and every row of theirs may take it.

    Args:
        rows: [N, D] item rows Proj(v); without an index [B, L, D] or [T, D], one an event.
        index: [B, L] or [T] int rows of `rows`, or None.
        user: [B, D] the [USER] vector, first token of every sequence.
        table: [V, D] all small tables, one below the other.
        codes: [B, L, F] or [T, F] int rows of `table` to sum, each as often as it stands there.
        signals: [B, L, S] or [T, S] external signals; signal_weight: [S, D].
        read_out: [D] type embedding of a read-out; it has no position.
        read_sequence: [R] int sequence of each read-out; None for one a sequence, in order.
        ends: [R] int events before each read-out.
        offsets: [B + 1] int where each sequence's events start in the packed form, or None.
        norm: weight and bias [D] of a layer norm over tokens and read-outs, or None.
    """
    x = rows if index is None else F.embedding(index, rows)
    x = x + signals @ signal_weight
    for code in codes.unbind(-1):
        x = x + F.embedding(code, table)
    if offsets is None:
        tokens = torch.cat([user[:, None], x], dim=1)
    else:
        first, event = token_rows(offsets, len(x))
        source = torch.empty(len(user) + len(x), dtype=torch.int64, device=x.device)
        source[first] = torch.arange(len(user), device=x.device)
        source[event] = torch.arange(len(user), len(source), device=x.device)
        tokens = torch.cat([user, x]).index_select(0, source)
    read = user if read_sequence is None else user.index_select(0, read_sequence)
    read_outs = read + read_out
    if norm is not None:
        tokens = F.layer_norm(tokens, tokens.shape[-1:], *norm, eps)
        read_outs = F.layer_norm(read_outs, read_outs.shape[-1:], *norm, eps)
    return Assembled(tokens, read_outs, ends + 1)


def token_rows(offsets: Tensor, n_events: int) -> tuple[Tensor, Tensor]:
    """Rows of the packed tokens, int64: [B] of every [USER], [T] of every event."""
    sequence = torch.arange(len(offsets) - 1, device=offsets.device)
    event = torch.arange(n_events, device=offsets.device)
    owner = torch.searchsorted(offsets[1:].long(), event, right=True)
    return offsets[:-1].long() + sequence, event + owner + 1


def unfolded_rows(
    index: Tensor,
    text: Tensor,
    text_index: Tensor,
    delta: Tensor,
    tags: Tags,
    tag_weight: Tensor,
    project_weight: Tensor,
    project_bias: Tensor,
) -> Tensor:
    """Equals linear(concat(text[text_index] + delta, Σ tag_weight[tags]), project) at `index`.

    A NaN in an item's text or Δ reaches its own row alone; one in a weight may reach every row.

    Args:
        index: [n] int items, each at most once.
        text: [T, d_e] frozen text embeddings; text_index: [N] int row of each item.
        delta: [N, d_e] learned residual.
        tags: of the N items, from `pack_tags`.
        tag_weight: [V, d_a] rows of W_attr, one a tag.
        project_weight: [D, d_e + d_a]; project_bias: [D].
    Returns:
        [n, D] rows Proj(v).
    """
    semantic = text[text_index[index]] + F.embedding(index, delta)
    attributes = tag_sums(index, tags, tag_weight)
    return F.linear(torch.cat([semantic, attributes], dim=-1), project_weight, project_bias)


def tag_sums(index: Tensor, tags: Tags, tag_weight: Tensor) -> Tensor:
    """Equals Σ tag_weight[tags of the item], [n, d_a], of the items `index` [n]."""
    starts, ends = tags.offsets[index], tags.offsets[index + 1]
    counts = ends - starts
    offsets = counts.cumsum(0) - counts
    place = torch.arange(int(counts.sum()), device=index.device)
    place = place + torch.repeat_interleave(starts - offsets, counts)
    return F.embedding_bag(tags.ids[place], tag_weight, offsets, mode="sum")
