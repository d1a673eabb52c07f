"""Host side of the token gate: configurations, outputs, grids, and the pieces of the gradient."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.launch import Value, launch

from . import _triton

MAX_DIMENSION = 1024
ELEMENTS = 256  # of a tile for each warp: 16 bytes of fp16 a thread
TOKEN_WARPS, PIECE_WARPS, ROW_WARPS = 8, 4, 4  # README.md says why these
PIECE = 64  # most tokens of a piece
PROGRAMS = 512  # most blocks over pieces: each writes a part of the scale's gradient
NARROW = 1 << 15  # domain tokens that int16 numbers: fewer of the sort's passes


@dataclass(frozen=True)
class Tile:
    """Tokens and columns of a tile."""

    block_t: int
    block_d: int


def tile(d: int, warps: int) -> Tile:
    """The tile of rows with `d` columns: whole rows, so that nothing is read twice."""
    block_d = max(1 << (d - 1).bit_length(), 16)
    return Tile(max(ELEMENTS * warps // block_d, 1), block_d)


def allocate(like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """An output for a kernel to write all of; tests put NaN there."""
    return like.new_empty(shape, dtype=dtype)


def gate(
    hidden: Tensor, keys: Tensor, values: Tensor, ids: Tensor, scale: Tensor, eps: float
) -> Tensor:
    """The gated tokens [T, D], by one launch; arguments as in reference.py."""
    n_tokens, d = hidden.shape
    chosen = tile(d, TOKEN_WARPS)
    out = allocate(hidden, n_tokens, d)
    arguments: dict[str, Value] = {
        "hidden_ptr": hidden.contiguous(),
        "keys_ptr": keys.contiguous(),
        "values_ptr": values.contiguous(),
        "ids_ptr": ids.contiguous(),
        "scale_ptr": scale.contiguous(),
        "n_tokens": n_tokens,
        "out_ptr": out,
    }
    launch(
        _triton.gate_kernel, (-(-n_tokens // chosen.block_t),), arguments,
        _constants(chosen, d, eps), num_warps=TOKEN_WARPS, num_stages=1,
    )  # fmt: skip
    return out


class Pieces(NamedTuple):
    """Tokens by their segment: 0 without a domain token, j + 1 of domain token j.

    Attributes:
        order: [T] int64 tokens, segment by segment, each in the order of the batch.
        starts: [V + 2] int32, where each segment starts in `order`.
        piece_starts: [V + 2] int32, the first piece of each segment.
        segments: [pieces] int32 segment of each piece, V + 1 past the last one: as many as there
            can be for the shapes, so that nothing waits for the device.
    """

    order: Tensor
    starts: Tensor
    piece_starts: Tensor
    segments: Tensor


def pieces(ids: Tensor, n_rows: int) -> Pieces:
    """Cuts the tokens of every segment into pieces of at most PIECE."""
    narrow = torch.int16 if n_rows < NARROW else torch.int32
    # Stable: the order of a sum is the order of the tokens, whatever the device's sort does.
    ordered, order = torch.sort(ids.to(narrow), stable=True)
    every = torch.arange(n_rows + 1, device=ids.device, dtype=narrow)
    starts = ids.new_zeros(n_rows + 2)
    starts[1:] = torch.searchsorted(ordered, every, out_int32=True)
    piece_starts = torch.zeros_like(starts)
    piece_starts[1:] = ((starts.diff() + PIECE - 1) // PIECE).cumsum(0)
    most = len(ids) // PIECE + min(n_rows + 1, len(ids))
    numbers = torch.arange(most, device=ids.device, dtype=torch.int32)
    segments = torch.searchsorted(piece_starts[1:], numbers, right=True, out_int32=True)
    return Pieces(order, starts, piece_starts, segments)


def gate_backward(
    gradient: Tensor,
    hidden: Tensor,
    keys: Tensor,
    values: Tensor,
    ids: Tensor,
    scale: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of hidden, keys, values and scale, in their dtypes, from that of the result."""
    n_rows, d = keys.shape
    cut = pieces(ids, n_rows)
    n_pieces = len(cut.segments)
    programs = min(n_pieces, PROGRAMS)
    keys, scale = keys.contiguous(), scale.contiguous()
    d_hidden = allocate(hidden, *hidden.shape)
    d_keys, d_values = allocate(keys, n_rows, d), allocate(values, n_rows, d)
    key_parts, value_parts = (allocate(scale, n_pieces, d) for _ in range(2))
    scale_parts = allocate(scale, programs, d)
    arguments: dict[str, Value] = {
        "gradient_ptr": gradient.contiguous(),
        "hidden_ptr": hidden.contiguous(),
        "keys_ptr": keys,
        "values_ptr": values.contiguous(),
        "scale_ptr": scale,
        "order_ptr": cut.order,
        "starts_ptr": cut.starts,
        "piece_starts_ptr": cut.piece_starts,
        "piece_segments_ptr": cut.segments,
        "n_rows": n_rows,
        "n_pieces": n_pieces,
        "d_hidden_ptr": d_hidden,
        "d_keys_ptr": d_keys,
        "d_values_ptr": d_values,
        "key_parts_ptr": key_parts,
        "value_parts_ptr": value_parts,
        "scale_parts_ptr": scale_parts,
    }
    launch(
        _triton.gate_gradient_kernel, (programs,), arguments,
        {**_constants(tile(d, PIECE_WARPS), d, eps), "PIECE": PIECE},
        num_warps=PIECE_WARPS, num_stages=1,
    )  # fmt: skip
    arguments = {
        "keys_ptr": keys,
        "scale_ptr": scale,
        "piece_starts_ptr": cut.piece_starts,
        "key_parts_ptr": key_parts,
        "value_parts_ptr": value_parts,
        "d_keys_ptr": d_keys,
        "d_values_ptr": d_values,
    }
    launch(
        _triton.sum_rows_kernel, (n_rows,), arguments,
        _constants(tile(d, ROW_WARPS), d, eps), num_warps=ROW_WARPS, num_stages=1,
    )  # fmt: skip
    return d_hidden, d_keys, d_values, scale_parts.sum(dim=0)


def _constants(chosen: Tile, d: int, eps: float) -> dict[str, int | float]:
    return {"D": d, "EPS": eps, "BLOCK_T": chosen.block_t, "BLOCK_D": chosen.block_d}
