"""Host side of the folded kernels: configurations, outputs, grids."""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from kernels.launch import Value, launch

from . import _triton
from .reference import token_rows

MAX_CODES, MAX_SIGNALS = 16, 32  # unrolled in the kernel


@dataclass(frozen=True)
class Config:
    """Tiles of one shape class; README.md says why these.

    Attributes:
        block_t, block_d, warps: token rows and columns of a tile of the forward, its warps.
        segment_t, segment_d, user_d: tile of the sums over tokens of one row; columns of a user's.
        table_v, table_t, table_d, table_warps, table_stages: tile of the gradient of the table.
        table_splits: parts of the events whose sums are added afterwards, in order.
    """

    block_t: int
    block_d: int
    warps: int
    segment_t: int
    segment_d: int
    user_d: int
    table_v: int
    table_t: int
    table_d: int
    table_warps: int
    table_stages: int
    table_splits: int


# By the most columns D: the first class that D fits in.
CONFIGS = {
    128: Config(16, 128, 8, 16, 128, 128, 64, 32, 64, 4, 2, 20),
    1 << 30: Config(8, 256, 8, 16, 256, 128, 128, 32, 128, 8, 2, 10),
}


def config(d: int) -> Config:
    """Configuration of rows with `d` columns."""
    return next(c for most, c in CONFIGS.items() if d <= most)


def tile(size: int, most: int, least: int = 1) -> int:
    """The power of two that holds `size`, within [least, most]."""
    return min(max(1 << (max(size, 1) - 1).bit_length(), least), most)


def allocate(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An output for a kernel to write all of; tests put NaN there."""
    return like.new_empty(shape, dtype=dtype)


def result_dtype(*floats: Tensor) -> torch.dtype:
    """What torch promotes the arguments' dtypes to."""
    return reduce(torch.promote_types, (x.dtype for x in floats))


def assemble(
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
    offsets: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, read-outs and cuts, by one launch; arguments as in reference.py."""
    (b, d), n_codes, n_signals = user.shape, codes.shape[-1], signals.shape[-1]
    n_read_outs = len(ends)
    n_tokens = codes.shape[:-1].numel() + b
    dtype = result_dtype(rows, user, table, signals, signal_weight, read_out)
    shape = (n_tokens, d) if offsets is not None else (b, codes.shape[1] + 1, d)
    tokens = allocate(rows, *shape, dtype=dtype)
    read_outs = allocate(rows, n_read_outs, d, dtype=dtype)
    cuts = allocate(ends, n_read_outs)
    chosen = config(d)
    n_blocks = -(-n_tokens // chosen.block_t) + -(-n_read_outs // chosen.block_t)
    arguments: dict[str, Value] = {
        "rows_ptr": rows.contiguous(),
        "index_ptr": None if index is None else index.contiguous(),
        "user_ptr": user.contiguous(),
        "table_ptr": table.contiguous(),
        "codes_ptr": codes.contiguous(),
        "signals_ptr": signals.contiguous(),
        "signal_weight_ptr": signal_weight.contiguous(),
        "read_out_ptr": read_out.contiguous(),
        "read_sequence_ptr": None if read_sequence is None else read_sequence.contiguous(),
        "ends_ptr": ends.contiguous(),
        "offsets_ptr": None if offsets is None else offsets.contiguous(),
        "norm_weight_ptr": None if norm_weight is None else norm_weight.contiguous(),
        "norm_bias_ptr": None if norm_bias is None else norm_bias.contiguous(),
        "n_tokens": n_tokens,
        "n_read_outs": n_read_outs,
        "n_sequences": b,
        "n_search": 0 if offsets is None else max(b - 1, 0).bit_length(),
        "stride_sequence": 0 if offsets is not None else codes.shape[1] + 1,
        "tokens_ptr": tokens,
        "read_outs_ptr": read_outs,
        "cuts_ptr": cuts,
    }
    constants = {
        "D": d, "F": n_codes, "S": n_signals, "EPS": eps,
        "BLOCK_T": chosen.block_t, "BLOCK_D": tile(d, chosen.block_d),
    }  # fmt: skip
    launch(
        _triton.assemble_kernel, (n_blocks,), arguments, constants,
        num_warps=chosen.warps, num_stages=1,
    )  # fmt: skip
    return tokens, read_outs, cuts


def assemble_backward(
    d_tokens: Tensor,
    d_read_outs: Tensor,
    index: Tensor | None,
    codes: Tensor,
    signals: Tensor,
    read_sequence: Tensor | None,
    offsets: Tensor | None,
    n_rows: int,
    n_table: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of rows [n_rows, D], user, table and signal_weight, all in the gradient's dtype.

    Without an index the gradient of the rows is [0, D]: it is the tokens' own, and the caller's.
    """
    d = d_tokens.shape[-1]
    n_events = codes.shape[:-1].numel()
    first, event = _token_rows(codes, offsets)
    source = d_tokens.contiguous().view(-1, d)
    readers = torch.arange(len(first), device=source.device)
    if read_sequence is not None:
        readers = read_sequence
    d_user = _segment_sums(d_read_outs.contiguous(), readers, None, len(first), source, first)
    if index is None:
        d_rows = source.new_empty(0, d)
    else:
        d_rows = _segment_sums(source, index.flatten(), event, n_rows)
    sums = _table_gradient(source, event, codes, signals, n_events, n_table)
    sums = sums.to(source.dtype)
    # Copies: outputs of a custom operator may not share memory.
    return d_rows, d_user, sums[:n_table].clone(), sums[n_table:].clone()


def _token_rows(codes: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Rows of the flattened tokens: [B] of every [USER], [T] of every event, int64."""
    if offsets is not None:
        return token_rows(offsets, len(codes))
    b, length = codes.shape[:2]
    rows = torch.arange(b * (length + 1), device=codes.device).view(b, length + 1)
    return rows[:, 0].contiguous(), rows[:, 1:].reshape(-1)


def _segment_sums(
    source: Tensor,
    segment: Tensor,
    place: Tensor | None,
    n_segments: int,
    base: Tensor | None = None,
    base_rows: Tensor | None = None,
) -> Tensor:
    """out[i] = base[base_rows[i]] + Σ source[place[t]] over the t of segment[t] = i, ascending t.

    Args:
        source: [*, D]; segment: [T] int; place: [T] int rows of `source`, None for t itself.
    """
    d = source.shape[1]
    # Stable: the order of a sum is the order of the tokens, whatever the device's sort does.
    ordered, order = torch.sort(segment, stable=True)
    edges = torch.arange(n_segments + 1, device=source.device, dtype=ordered.dtype)
    starts = torch.searchsorted(ordered, edges)
    if place is not None:
        order = place[order]
    out = allocate(source, n_segments, d)
    chosen = config(d)
    block_d = tile(d, chosen.segment_d if base is None else chosen.user_d)
    arguments: dict[str, Value] = {
        "source_ptr": source,
        "order_ptr": order.to(torch.int32),
        "starts_ptr": starts.to(torch.int32),
        "base_ptr": base,
        "base_rows_ptr": None if base_rows is None else base_rows.to(torch.int32),
        "out_ptr": out,
    }
    launch(
        _triton.segment_sum_kernel, (n_segments, -(-d // block_d)), arguments,
        {"D": d, "BLOCK_T": chosen.segment_t, "BLOCK_D": block_d},
        num_warps=4, num_stages=1,
    )  # fmt: skip
    return out


def _table_gradient(
    gradient: Tensor, event: Tensor, codes: Tensor, signals: Tensor, n_events: int, n_table: int
) -> Tensor:
    """[V + S, D] fp32: the table's gradient and, below it, signal_weight's."""
    d, n_codes, n_signals = gradient.shape[1], codes.shape[-1], signals.shape[-1]
    chosen = config(d)
    block_d = tile(d, chosen.table_d, 16)
    n_split = -(-n_events // (chosen.table_splits * chosen.table_t)) * chosen.table_t
    shape = (chosen.table_splits, n_table + n_signals, d)
    partial = allocate(gradient, *shape, dtype=torch.float32)
    arguments: dict[str, Value] = {
        "gradient_ptr": gradient,
        "event_rows_ptr": event.to(torch.int32),
        "codes_ptr": codes.contiguous(),
        "signals_ptr": signals.contiguous(),
        "n_events": n_events,
        "n_table": n_table,
        "n_split": n_split,
        "partial_ptr": partial,
    }
    grid = (-(-(n_table + n_signals) // chosen.table_v), -(-d // block_d), chosen.table_splits)
    constants = {
        "D": d, "F": n_codes, "S": n_signals,
        "BLOCK_V": chosen.table_v, "BLOCK_T": chosen.table_t, "BLOCK_D": block_d,
    }  # fmt: skip
    launch(
        _triton.table_gradient_kernel, grid, arguments, constants,
        num_warps=chosen.table_warps, num_stages=chosen.table_stages,
    )  # fmt: skip
    return partial.sum(dim=0)
