"""Host side of the candidate softmax's kernels: configurations, chunks of positions, launches."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from kernels.launch import launch

from . import _triton

MAX_DIMENSION = 128  # above it, tiles of 64 rows no longer fit the registers of a block
TILE = 64  # shared items of a tile: bits of a word; the kernels' BLOCK_S
GROUPS = 32  # partial sums of a row over the shared items, at the most
FULL_CARD = 192  # blocks; above the multiprocessors of every card in kernels/cards.py
WORD_BYTES = 64 << 20  # words of listed items that live at once
ENTRIES = 1 << 22  # own candidates that are sorted at once
PIECE = 256  # entries of one item that one block sums


@dataclass(frozen=True)
class Config:
    """Positions of a block, and how many warps and stages it runs with."""

    block_p: int
    num_warps: int
    num_stages: int


# Keyed by shared items, never by positions: a row's bits do not depend on what else is there.
# "catalogue": shared items are read again for every block of positions, so the block is large.
CATALOGUE = 4096
SHARED_LOGSUMEXP = {"sampled": Config(64, 4, 3), "catalogue": Config(128, 8, 3)}
SHARED_HIDDEN = {"sampled": Config(64, 8, 2), "catalogue": Config(128, 8, 2)}
SHARED_ITEMS = Config(32, 4, 2)  # 64 positions spill at 64 dimensions
# Warps by candidates of a block: the smallest block that holds a row's, else the largest.
MARK_LISTED = {32: 4, 64: 4, 128: 4}
OWN_SOFTMAX = {32: 4, 64: 8}
OWN_BACKWARD = {32: 4}
ENTRY_BLOCK, ENTRY_WARPS = 32, 4
ITEM_BLOCK, ITEM_WARPS = 8, 4


@dataclass(frozen=True)
class Inputs:
    """Arguments of the operator as in `reference.py`, contiguous, the flags as bytes."""

    hidden: Tensor
    items: Tensor
    bias: Tensor
    shared: Tensor
    shared_log_pi: Tensor
    candidates: Tensor
    log_pi: Tensor
    offset: Tensor
    weight: Tensor
    negative: Tensor

    @classmethod
    def of(cls, *arguments: Tensor) -> "Inputs":
        """The operator's arguments in order."""
        names = (field.name for field in fields(cls))
        values = dict(zip(names, (argument.contiguous() for argument in arguments), strict=True))
        values["negative"] = values["negative"].view(torch.uint8)
        return cls(**values)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Positions, own candidates, shared items."""
        return (*self.candidates.shape, len(self.shared))  # type: ignore[return-value]

    def own(self, rows: slice) -> dict[str, Tensor]:
        """What the kernels of a position's own candidates read."""
        return {
            "hidden_row_ptr": self.hidden[rows],
            "items_ptr": self.items,
            "bias_ptr": self.bias,
            "candidates_ptr": self.candidates[rows],
            "log_pi_ptr": self.log_pi[rows],
            "offset_ptr": self.offset[rows],
            "weight_ptr": self.weight[rows],
            "negative_ptr": self.negative[rows],
        }


@dataclass(frozen=True)
class Shared:
    """The shared items side by side, so that their tiles are read in whole lines.

    Attributes:
        rows: [S, D] their vectors.
        correction: [S] fp32, bias - log π.
        column: [N] int32, where in `shared` an item stands, -1 where nowhere.
    """

    rows: Tensor
    correction: Tensor
    column: Tensor

    @classmethod
    def of(cls, x: Inputs) -> "Shared":
        count, device = len(x.shared), x.hidden.device
        column = torch.full((len(x.items),), -1, dtype=torch.int32, device=device)
        column[x.shared] = torch.arange(count, dtype=torch.int32, device=device)
        correction = x.bias.index_select(0, x.shared) - x.shared_log_pi
        return cls(x.items.index_select(0, x.shared), correction, column)


def forward(x: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """loss, negative loss, logsumexp, Σ w of targets and count of negatives: [P] fp32 each."""
    n_positions, n_candidates, n_shared = x.sizes
    shared = Shared.of(x)
    group_tiles = _ceil(_ceil(n_shared, TILE), GROUPS)
    n_groups = _ceil(n_shared, TILE * group_tiles) if n_shared else 0
    outputs = tuple(_empty(x.hidden, n_positions) for _ in range(5))
    block = _block(OWN_SOFTMAX, n_candidates)
    for rows in _chunks(n_positions, WORD_BYTES // max(8 * _ceil(n_shared, TILE), 1)):
        count = rows.stop - rows.start
        parts = _empty(x.hidden, count, n_groups)
        if n_shared:
            _shared_logsumexp(x, shared, rows, parts, group_tiles)
        names = ("loss", "negative_loss", "logsumexp", "weight_sum", "negative_count")
        launch(
            _triton.own_softmax,
            (count,),
            {
                **x.own(rows),
                "group_sums_ptr": parts,
                "n_candidates": n_candidates,
                "n_groups": n_groups,
                **{f"{n}_ptr": o[rows] for n, o in zip(names, outputs, strict=True)},
            },
            {**_width(x), "BLOCK_C": block, "BLOCK_G": GROUPS},
            num_warps=OWN_SOFTMAX[block],
            num_stages=1,
        )
    return outputs  # type: ignore[return-value]


def backward(
    x: Inputs, d_loss: Tensor, d_sum: Tensor, d_negative: Tensor, logsumexp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of hidden, items and offset, in their dtypes.

    Args:
        d_loss, d_sum, d_negative: [P] fp32: gradients of a row's loss by its own logits' weights,
            of its logsumexp from all outputs, and of one of its softplus terms.
        logsumexp: [P] of the forward pass.
    """
    n_positions, n_candidates, n_shared = x.sizes
    shared = Shared.of(x)
    d_hidden = _empty(x.hidden, *x.hidden.shape, dtype=x.hidden.dtype)
    d_offset = _empty(x.hidden, *x.offset.shape)
    total: Tensor | None = None
    d_rows: Tensor | None = None
    size = min(ENTRIES // max(n_candidates, 1), WORD_BYTES // max(8 * _ceil(n_shared, TILE), 1))
    for rows in _chunks(n_positions, size):
        given = (d_loss[rows], d_sum[rows], d_negative[rows], logsumexp[rows])
        words = _listed(x, shared, rows) if n_shared else None
        parts = _shared_hidden(x, shared, rows, words, logsumexp[rows])
        _own_backward(x, rows, given, parts, d_offset[rows], d_hidden[rows])
        d_rows = _shared_items(x, shared, rows, words, logsumexp[rows], d_sum[rows], d_rows)
        last = rows.stop == n_positions
        total = _items(x, shared, rows, d_offset[rows], d_rows if last else None, total, last)
    if total is None:
        total = torch.zeros_like(x.items)
    return d_hidden, total, d_offset


def _listed(x: Inputs, shared: Shared, rows: slice) -> Tensor:
    """[rows, words] int64: bit s % 64 of word s // 64 is set where the row lists s itself."""
    _, n_candidates, n_shared = x.sizes
    count, n_words = rows.stop - rows.start, _ceil(n_shared, TILE)
    words = torch.zeros(count, 2 * n_words, dtype=torch.int32, device=x.hidden.device)
    block = _block(MARK_LISTED, n_candidates)
    launch(
        _triton.mark_listed,
        (count,),
        {
            "candidates_ptr": x.candidates[rows],
            "column_ptr": shared.column,
            "n_candidates": n_candidates,
            "n_halves": 2 * n_words,
            "words_ptr": words,
        },
        {"BLOCK_C": block, "ONE_BLOCK": n_candidates <= block},
        num_warps=MARK_LISTED[block],
        num_stages=1,
    )
    # Little endian, as every machine that these kernels run on.
    return words.view(torch.int64)


def _shared_logsumexp(
    x: Inputs, shared: Shared, rows: slice, parts: Tensor, group_tiles: int
) -> None:
    """Writes `parts` [rows, groups]."""
    count, n_groups = parts.shape
    n_shared = len(shared.rows)
    config = SHARED_LOGSUMEXP["catalogue" if n_shared >= CATALOGUE else "sampled"]
    blocks = _ceil(count, config.block_p)
    # Few positions: one group a block, so that the card is full; many: hidden is read once.
    program_groups = min(max(blocks * n_groups // FULL_CARD, 1), n_groups)
    words = _listed(x, shared, rows)
    launch(
        _triton.shared_logsumexp,
        (blocks, _ceil(n_groups, program_groups)),
        {
            **_shared_arguments(x, shared, rows, words),
            "n_positions": count,
            "n_shared": n_shared,
            "n_words": words.shape[1],
            "n_groups": n_groups,
            "group_tiles": group_tiles,
            "program_groups": program_groups,
            "parts_ptr": parts,
        },
        {**_width(x), "BLOCK_P": config.block_p},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def _shared_hidden(
    x: Inputs, shared: Shared, rows: slice, words: Tensor | None, logsumexp: Tensor
) -> Tensor:
    """[splits, rows, D] fp32: Σ_s softmax(p, s) c_s over splits of the shared items."""
    count, n_shared = rows.stop - rows.start, len(shared.rows)
    if words is None:
        return _empty(x.hidden, 0, count, x.hidden.shape[1])
    config = SHARED_HIDDEN["catalogue" if n_shared >= CATALOGUE else "sampled"]
    blocks, tiles = _ceil(count, config.block_p), _ceil(n_shared, TILE)
    split_tiles = _ceil(tiles, min(_ceil(FULL_CARD, blocks), tiles))
    parts = _empty(x.hidden, _ceil(tiles, split_tiles), count, x.hidden.shape[1])
    launch(
        _triton.shared_hidden,
        (blocks, len(parts)),
        {
            **_shared_arguments(x, shared, rows, words),
            "logsumexp_ptr": logsumexp,
            "n_positions": count,
            "n_shared": n_shared,
            "n_words": words.shape[1],
            "split_tiles": split_tiles,
            "parts_ptr": parts,
        },
        {**_width(x), "BLOCK_P": config.block_p},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return parts


def _own_backward(
    x: Inputs,
    rows: slice,
    given: tuple[Tensor, Tensor, Tensor, Tensor],
    parts: Tensor,
    d_offset: Tensor,
    d_hidden: Tensor,
) -> None:
    """Writes d_offset [rows, C] and d_hidden [rows, D]."""
    d_loss, d_sum, d_negative, logsumexp = given
    block = _block(OWN_BACKWARD, d_offset.shape[1])
    launch(
        _triton.own_backward,
        (len(d_hidden),),
        {
            **x.own(rows),
            "logsumexp_ptr": logsumexp,
            "d_loss_ptr": d_loss,
            "d_sum_ptr": d_sum,
            "d_negative_ptr": d_negative,
            "split_rows_ptr": parts,
            "n_positions": len(d_hidden),
            "n_candidates": d_offset.shape[1],
            "n_splits": len(parts),
            "d_offset_ptr": d_offset,
            "d_hidden_ptr": d_hidden,
        },
        {**_width(x), "BLOCK_C": block},
        num_warps=OWN_BACKWARD[block],
        num_stages=1,
    )


def _shared_items(
    x: Inputs,
    shared: Shared,
    rows: slice,
    words: Tensor | None,
    logsumexp: Tensor,
    d_sum: Tensor,
    before: Tensor | None,
) -> Tensor:
    """[splits, S, D] fp32: gradients of the shared items' rows, on top of `before`."""
    count, n_shared = rows.stop - rows.start, len(shared.rows)
    if words is None:
        return _empty(x.hidden, 0, n_shared, x.hidden.shape[1])
    tiles, blocks = _ceil(n_shared, TILE), _ceil(count, SHARED_ITEMS.block_p)
    if before is None:
        split_blocks = _ceil(blocks, min(_ceil(FULL_CARD, tiles), blocks))
        parts = _empty(x.hidden, _ceil(blocks, split_blocks), n_shared, x.hidden.shape[1])
    else:
        parts = before
        split_blocks = _ceil(blocks, len(parts))
    launch(
        _triton.shared_items,
        (tiles, len(parts)),
        {
            **_shared_arguments(x, shared, rows, words),
            "logsumexp_ptr": logsumexp,
            "d_sum_ptr": d_sum,
            "n_positions": count,
            "n_shared": n_shared,
            "n_words": words.shape[1],
            "split_blocks": split_blocks,
            "parts_ptr": parts,
        },
        {**_width(x), "BLOCK_P": SHARED_ITEMS.block_p, "ADD": before is not None},
        num_warps=SHARED_ITEMS.num_warps,
        num_stages=SHARED_ITEMS.num_stages,
    )
    return parts


def _items(
    x: Inputs,
    shared: Shared,
    rows: slice,
    d_offset: Tensor,
    d_rows: Tensor | None,
    before: Tensor | None,
    last: bool,
) -> Tensor:
    """[N, D]: `before` + own candidates' gradients (+ d_rows' where given); fp32 unless `last`."""
    n_items, d = x.items.shape
    ids, order = torch.sort(x.candidates[rows].flatten().to(torch.int32), stable=True)
    # Pads sort first: no item starts before them.
    every = torch.arange(n_items + 1, dtype=torch.int32, device=ids.device)
    starts = torch.searchsorted(ids, every, out_int32=True)
    piece_starts = torch.zeros_like(starts)
    pieces = (starts.diff() + PIECE - 1) // PIECE
    piece_starts[1:] = pieces.cumsum(0)
    n_pieces = len(ids) // PIECE + min(n_items, len(ids))  # at most, whatever the data
    numbers = torch.arange(n_pieces, dtype=torch.int32, device=ids.device)
    piece_items = torch.searchsorted(piece_starts[1:], numbers, right=True, out_int32=True)
    parts = _empty(x.hidden, n_pieces, d)
    launch(
        _triton.own_items,
        (n_pieces,),
        {
            "hidden_ptr": x.hidden[rows],
            "d_offset_ptr": d_offset,
            "order_ptr": order,
            "starts_ptr": starts,
            "piece_starts_ptr": piece_starts,
            "piece_items_ptr": piece_items,
            "n_items": n_items,
            "n_candidates": d_offset.shape[1],
            "parts_ptr": parts,
        },
        {**_width(x), "BLOCK_E": ENTRY_BLOCK, "PIECE": PIECE},
        num_warps=ENTRY_WARPS,
        num_stages=1,
    )
    out = _empty(x.hidden, n_items, d, dtype=x.items.dtype if last else torch.float32)
    launch(
        _triton.sum_items,
        (_ceil(n_items, ITEM_BLOCK),),
        {
            "parts_ptr": parts,
            "piece_starts_ptr": piece_starts,
            "shared_parts_ptr": _empty(x.hidden, 0) if d_rows is None else d_rows,
            "column_ptr": shared.column,
            "before_ptr": before,
            "n_items": n_items,
            "n_shared": len(shared.rows),
            "n_splits": 0 if d_rows is None else len(d_rows),
            "out_ptr": out,
        },
        {**_width(x), "BLOCK_N": ITEM_BLOCK, "ADD": before is not None},
        num_warps=ITEM_WARPS,
        num_stages=1,
    )
    return out


def _shared_arguments(x: Inputs, shared: Shared, rows: slice, words: Tensor) -> dict[str, Tensor]:
    return {
        "hidden_ptr": x.hidden[rows],
        "rows_ptr": shared.rows,
        "correction_ptr": shared.correction,
        "words_ptr": words,
    }


def _width(x: Inputs) -> dict[str, int]:
    """The vectors' dimension, and the power of two, 16 at least, that holds it."""
    d = x.hidden.shape[1]
    return {"D": d, "BLOCK_D": max(16, 1 << (d - 1).bit_length())}


def _block(warps: dict[int, int], n_candidates: int) -> int:
    """The smallest block of candidates that holds a row's, else the largest."""
    return next((block for block in warps if block >= n_candidates), max(warps))


def _chunks(n_positions: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` positions, in whole tiles so that their rows stay aligned."""
    size = max(size // TILE, 1) * TILE
    for start in range(0, n_positions, size):
        yield slice(start, min(start + size, n_positions))


def _empty(like: Tensor, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=like.device)


def _ceil(value: int, by: int) -> int:
    return -(-value // by)
