"""Device code of the candidate softmax: listed shared items, both halves of the sum, gradients."""

import triton
import triton.language as tl

# Shared items come in tiles of 64: one int64 word of a row says which of a tile it lists itself.
BLOCK_S = tl.constexpr(64)


@triton.jit
def _places(candidates_ptr, column_ptr, o_row, o_first, n_candidates, BLOCK_C: tl.constexpr):
    """Where in `shared` the candidates of a row stand, -1 where nowhere: [BLOCK_C] int32."""
    o_c = o_first + tl.arange(0, BLOCK_C)
    i_item = tl.load(candidates_ptr + o_row + o_c, mask=o_c < n_candidates, other=-1)
    return tl.load(column_ptr + i_item, mask=i_item >= 0, other=-1)


@triton.jit
def mark_listed(
    candidates_ptr,
    column_ptr,
    n_candidates,
    n_halves,
    words_ptr,
    BLOCK_C: tl.constexpr,
    ONE_BLOCK: tl.constexpr,
):
    """Sets bit s % 32 of words[p, s // 32] where position p lists shared item s itself.

    Every candidate computes the whole word that it belongs to, so that those of one word store the
    same value: no order, no atomics, and work that does not grow with the shared items.
    """
    i_p = tl.program_id(0).to(tl.int64)
    o_row = i_p * n_candidates
    for o_first in range(0, n_candidates, BLOCK_C):
        i_place = _places(candidates_ptr, column_ptr, o_row, o_first, n_candidates, BLOCK_C)
        b_word = tl.zeros([BLOCK_C], tl.int32)
        for o_other in range(0, n_candidates, BLOCK_C):
            if ONE_BLOCK:
                i_other = i_place
            else:
                i_other = _places(candidates_ptr, column_ptr, o_row, o_other, n_candidates, BLOCK_C)
            b_bit = tl.where(i_other >= 0, 1 << (i_other & 31), 0)
            m_same = (i_place >> 5)[:, None] == (i_other >> 5)[None, :]  # [BLOCK_C, BLOCK_C]
            # Candidates are unique in a row, so bits are, and their sum is their union.
            b_word += tl.sum(tl.where(m_same, b_bit[None, :], 0), axis=1)
        p_word = words_ptr + i_p * n_halves + (i_place >> 5)
        tl.store(p_word, b_word, mask=i_place >= 0)


@triton.jit
def _rows(x_ptr, o_n, n_rows, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows o_n of a contiguous [n_rows, D]: [BLOCK, BLOCK_D], zeros outside."""
    o_d = tl.arange(0, BLOCK_D)
    m_x = (o_n < n_rows)[:, None] & (o_d < D)[None, :]
    return tl.load(x_ptr + o_n.to(tl.int64)[:, None] * D + o_d[None, :], mask=m_x, other=0.0)


@triton.jit
def _shared_logits(b_dots, correction_ptr, b_word, o_s, n_shared, AXIS: tl.constexpr):
    """Logits of a tile of shared items, -inf where a row lists the item itself or none is.

    AXIS is the shared items' axis in b_dots; b_word: one int64 a row.
    """
    m_s = o_s < n_shared
    b_correction = tl.load(correction_ptr + o_s, mask=m_s, other=0.0)
    o_bit = tl.arange(0, BLOCK_S).to(tl.int64)
    if AXIS == 1:
        m_listed = ((b_word[:, None] >> o_bit[None, :]) & 1) != 0
        m_out = m_listed | (m_s == 0)[None, :]
        b_logits = b_dots + b_correction[None, :]
    else:
        m_listed = ((b_word[None, :] >> o_bit[:, None]) & 1) != 0
        m_out = m_listed | (m_s == 0)[:, None]
        b_logits = b_dots + b_correction[:, None]
    return tl.where(m_out, float("-inf"), b_logits)


@triton.jit
def _finite(b_max):
    """0 in place of -inf, which no difference of -inf can be taken with."""
    return tl.where(b_max == float("-inf"), 0.0, b_max)


@triton.jit
def shared_logsumexp(
    hidden_ptr,
    rows_ptr,
    correction_ptr,
    words_ptr,
    n_positions,
    n_shared,
    n_words,
    n_groups,
    group_tiles,
    program_groups,
    parts_ptr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """parts[p, g] = log Σ exp over the shared items of group g that position p does not list.

    The groups depend on the shared items alone; how many of them one program takes changes no bit.
    """
    o_p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    m_p = o_p < n_positions
    b_hidden = _rows(hidden_ptr, o_p, n_positions, D, BLOCK_D)  # [BLOCK_P, BLOCK_D]
    n_tiles = tl.cdiv(n_shared, BLOCK_S)
    i_first = tl.program_id(1) * program_groups * group_tiles
    i_last = tl.minimum(i_first + program_groups * group_tiles, n_tiles)
    b_max = tl.full([BLOCK_P], float("-inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_P], tl.float32)
    for i_tile in range(i_first, i_last):
        o_s = i_tile * BLOCK_S + tl.arange(0, BLOCK_S)
        b_rows = _rows(rows_ptr, o_s, n_shared, D, BLOCK_D)  # [BLOCK_S, BLOCK_D]
        b_word = tl.load(words_ptr + o_p * n_words + i_tile, mask=m_p, other=0)
        b_dots = tl.dot(b_hidden, tl.trans(b_rows), input_precision="ieee")
        b_logits = _shared_logits(b_dots, correction_ptr, b_word, o_s, n_shared, 1)
        b_new = tl.maximum(b_max, tl.max(b_logits, axis=1))
        b_safe = _finite(b_new)
        b_tile = tl.sum(tl.exp(b_logits - b_safe[:, None]), axis=1)
        b_sum = b_sum * tl.exp(b_max - b_safe) + b_tile
        b_max = b_new
        if (i_tile + 1) % group_tiles == 0 or i_tile + 1 == n_tiles:
            p_part = parts_ptr + o_p * n_groups + i_tile // group_tiles
            tl.store(p_part, _finite(b_max) + tl.log(b_sum), mask=m_p)
            b_max = tl.full([BLOCK_P], float("-inf"), tl.float32)
            b_sum = tl.zeros([BLOCK_P], tl.float32)


@triton.jit
def _own(
    b_hidden,
    items_ptr,
    bias_ptr,
    candidates_ptr,
    log_pi_ptr,
    offset_ptr,
    weight_ptr,
    negative_ptr,
    o_row,
    o_first,
    n_candidates,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Some candidates of one row: mask, item rows, z, z - log π, weight and negative flag."""
    o_c = o_first + tl.arange(0, BLOCK_C)
    o_d = tl.arange(0, BLOCK_D)
    m_c = o_c < n_candidates
    i_item = tl.load(candidates_ptr + o_row + o_c, mask=m_c, other=-1)
    m_own = i_item >= 0
    p_rows = items_ptr + i_item[:, None] * D + o_d[None, :]
    b_rows = tl.load(p_rows, mask=m_own[:, None] & (o_d < D)[None, :], other=0.0)
    b_rows = b_rows.to(tl.float32)  # products and their sum over D in fp32
    b_z = tl.sum(b_rows * b_hidden[None, :], axis=1)
    b_z += tl.load(bias_ptr + i_item, mask=m_own, other=0.0)
    b_z += tl.load(offset_ptr + o_row + o_c, mask=m_own, other=0.0)
    b_log_pi = tl.load(log_pi_ptr + o_row + o_c, mask=m_own, other=0.0)
    b_corrected = tl.where(m_own, b_z - b_log_pi, float("-inf"))
    b_weight = tl.load(weight_ptr + o_row + o_c, mask=m_own, other=0.0)
    b_negative = tl.load(negative_ptr + o_row + o_c, mask=m_own, other=0)
    return m_own, b_rows, b_z, b_corrected, b_weight, b_negative != 0


@triton.jit
def own_softmax(
    hidden_row_ptr,
    items_ptr,
    bias_ptr,
    candidates_ptr,
    log_pi_ptr,
    offset_ptr,
    weight_ptr,
    negative_ptr,
    group_sums_ptr,
    n_candidates,
    n_groups,
    loss_ptr,
    negative_loss_ptr,
    logsumexp_ptr,
    weight_sum_ptr,
    negative_count_ptr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """One position: its own candidates, joined with the shared items' partial sums."""
    i_p = tl.program_id(0).to(tl.int64)
    o_row = i_p * n_candidates
    o_d = tl.arange(0, BLOCK_D)
    o_g = tl.arange(0, BLOCK_G)
    b_hidden = tl.load(hidden_row_ptr + i_p * D + o_d, mask=o_d < D, other=0.0).to(tl.float32)
    p_parts = group_sums_ptr + i_p * n_groups + o_g
    b_parts = tl.load(p_parts, mask=o_g < n_groups, other=float("-inf"))
    b_max = tl.max(b_parts, axis=0)
    b_sum = tl.sum(tl.exp(b_parts - _finite(b_max)), axis=0)
    # Sums by slot, over the blocks of candidates; across the slots once, at the end.
    b_weights = tl.zeros([BLOCK_C], tl.float32)  # w of targets
    b_targets = tl.zeros([BLOCK_C], tl.float32)  # w (z - log π)
    b_softplus = tl.zeros([BLOCK_C], tl.float32)
    b_count = tl.zeros([BLOCK_C], tl.float32)
    for o_first in range(0, n_candidates, BLOCK_C):
        _, _, b_z, b_corrected, b_weight, m_negative = _own(
            b_hidden, items_ptr, bias_ptr, candidates_ptr, log_pi_ptr, offset_ptr, weight_ptr,
            negative_ptr, o_row, o_first, n_candidates, D, BLOCK_D, BLOCK_C,
        )  # fmt: skip
        b_new = tl.maximum(b_max, tl.max(b_corrected, axis=0))
        b_safe = _finite(b_new)
        b_sum = b_sum * tl.exp(b_max - b_safe) + tl.sum(tl.exp(b_corrected - b_safe), axis=0)
        b_max = b_new
        m_target = b_weight > 0
        b_weights += b_weight * tl.where(m_target, 1.0, 0.0)
        b_targets += b_weight * tl.where(m_target, b_corrected, 0.0)
        b_log = tl.maximum(b_z, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(b_z)))
        b_softplus += tl.where(m_negative, b_log, 0.0)
        b_count += tl.where(m_negative, 1.0, 0.0)
    b_logsumexp = _finite(b_max) + tl.log(b_sum)
    b_weight_sum = tl.sum(b_weights, axis=0)
    b_negatives = tl.sum(b_count, axis=0)
    b_loss = b_weight_sum * b_logsumexp - tl.sum(b_targets, axis=0)
    # Without a target nothing is lost, also where the sum is empty and its logarithm -inf.
    tl.store(loss_ptr + i_p, tl.where(b_weight_sum == 0, 0.0, b_loss))
    b_mean = tl.sum(b_softplus, axis=0) / tl.maximum(b_negatives, 1.0)
    tl.store(negative_loss_ptr + i_p, b_mean)
    tl.store(logsumexp_ptr + i_p, b_logsumexp)
    tl.store(weight_sum_ptr + i_p, b_weight_sum)
    tl.store(negative_count_ptr + i_p, b_negatives)


@triton.jit
def shared_hidden(
    hidden_ptr,
    rows_ptr,
    correction_ptr,
    words_ptr,
    logsumexp_ptr,
    n_positions,
    n_shared,
    n_words,
    split_tiles,
    parts_ptr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """parts[split, p] = Σ_s softmax(p, s) rows[s] over the shared items of a split."""
    o_p = tl.program_id(0).to(tl.int64) * BLOCK_P + tl.arange(0, BLOCK_P)
    o_d = tl.arange(0, BLOCK_D)
    m_p = o_p < n_positions
    b_hidden = _rows(hidden_ptr, o_p, n_positions, D, BLOCK_D)
    b_logsumexp = _finite(tl.load(logsumexp_ptr + o_p, mask=m_p, other=0.0))
    i_first = tl.program_id(1) * split_tiles
    i_last = tl.minimum(i_first + split_tiles, tl.cdiv(n_shared, BLOCK_S))
    b_out = tl.zeros([BLOCK_P, BLOCK_D], tl.float32)
    for i_tile in range(i_first, i_last):
        o_s = i_tile * BLOCK_S + tl.arange(0, BLOCK_S)
        b_rows = _rows(rows_ptr, o_s, n_shared, D, BLOCK_D)
        b_word = tl.load(words_ptr + o_p * n_words + i_tile, mask=m_p, other=0)
        b_dots = tl.dot(b_hidden, tl.trans(b_rows), input_precision="ieee")
        b_logits = _shared_logits(b_dots, correction_ptr, b_word, o_s, n_shared, 1)
        # At most 1, so a half type holds it; the row's gradient scales the sum in fp32 later.
        b_share = tl.exp(b_logits - b_logsumexp[:, None]).to(b_rows.dtype)
        b_out += tl.dot(b_share, b_rows, input_precision="ieee")
    o_part = (tl.program_id(1).to(tl.int64) * n_positions + o_p) * D
    m_out = m_p[:, None] & (o_d < D)[None, :]
    tl.store(parts_ptr + o_part[:, None] + o_d[None, :], b_out, mask=m_out)


@triton.jit
def own_backward(
    hidden_row_ptr,
    items_ptr,
    bias_ptr,
    candidates_ptr,
    log_pi_ptr,
    offset_ptr,
    weight_ptr,
    negative_ptr,
    logsumexp_ptr,
    d_loss_ptr,
    d_sum_ptr,
    d_negative_ptr,
    split_rows_ptr,
    n_positions,
    n_candidates,
    n_splits,
    d_offset_ptr,
    d_hidden_ptr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One position: gradients of its own logits, and of its hidden vector with the shared part.

    d_sum: gradient of the row's logsumexp from all outputs; d_negative: of one softplus.
    """
    i_p = tl.program_id(0).to(tl.int64)
    o_row = i_p * n_candidates
    o_d = tl.arange(0, BLOCK_D)
    m_d = o_d < D
    b_hidden = tl.load(hidden_row_ptr + i_p * D + o_d, mask=m_d, other=0.0).to(tl.float32)
    b_logsumexp = _finite(tl.load(logsumexp_ptr + i_p))
    b_d_loss = tl.load(d_loss_ptr + i_p)
    b_d_sum = tl.load(d_sum_ptr + i_p)
    b_d_negative = tl.load(d_negative_ptr + i_p)
    b_out = tl.zeros([BLOCK_C, BLOCK_D], tl.float32)
    for o_first in range(0, n_candidates, BLOCK_C):
        m_own, b_rows, b_z, b_corrected, b_weight, m_negative = _own(
            b_hidden, items_ptr, bias_ptr, candidates_ptr, log_pi_ptr, offset_ptr, weight_ptr,
            negative_ptr, o_row, o_first, n_candidates, D, BLOCK_D, BLOCK_C,
        )  # fmt: skip
        b_d_z = b_d_sum * tl.exp(b_corrected - b_logsumexp)
        b_d_z -= tl.where(b_weight > 0, b_d_loss * b_weight, 0.0)
        b_d_z += tl.where(m_negative, b_d_negative / (1.0 + tl.exp(-b_z)), 0.0)
        # A pad has no gradient, not even in a row that is NaN.
        b_d_z = tl.where(m_own, b_d_z, 0.0)
        o_c = o_first + tl.arange(0, BLOCK_C)
        tl.store(d_offset_ptr + o_row + o_c, b_d_z, mask=o_c < n_candidates)
        b_out += b_d_z[:, None] * b_rows
    b_shared = tl.zeros([BLOCK_D], tl.float32)
    for i_split in range(n_splits):
        o_part = (i_split * n_positions + i_p) * D
        b_shared += tl.load(split_rows_ptr + o_part + o_d, mask=m_d, other=0.0)
    b_d_hidden = tl.sum(b_out, axis=0) + b_d_sum * b_shared
    tl.store(d_hidden_ptr + i_p * D + o_d, b_d_hidden, mask=m_d)


@triton.jit
def shared_items(
    hidden_ptr,
    rows_ptr,
    correction_ptr,
    words_ptr,
    logsumexp_ptr,
    d_sum_ptr,
    n_positions,
    n_shared,
    n_words,
    split_blocks,
    parts_ptr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
    ADD: tl.constexpr,
):
    """parts[split, s] = Σ_p d_sum[p] softmax(p, s) hidden[p] over the positions of a split.

    ADD: on top of what `parts` holds from the positions before these.
    """
    i_tile = tl.program_id(0)
    o_s = i_tile * BLOCK_S + tl.arange(0, BLOCK_S)
    o_d = tl.arange(0, BLOCK_D)
    b_rows = _rows(rows_ptr, o_s, n_shared, D, BLOCK_D)
    o_part = (tl.program_id(1).to(tl.int64) * n_shared + o_s) * D
    p_parts = parts_ptr + o_part[:, None] + o_d[None, :]
    m_parts = (o_s < n_shared)[:, None] & (o_d < D)[None, :]
    if ADD:
        b_out = tl.load(p_parts, mask=m_parts, other=0.0)
    else:
        b_out = tl.zeros([BLOCK_S, BLOCK_D], tl.float32)
    i_first = tl.program_id(1) * split_blocks
    i_last = tl.minimum(i_first + split_blocks, tl.cdiv(n_positions, BLOCK_P))
    for i_block in range(i_first, i_last):
        o_p = (i_block * BLOCK_P + tl.arange(0, BLOCK_P)).to(tl.int64)
        m_p = o_p < n_positions
        b_hidden = _rows(hidden_ptr, o_p, n_positions, D, BLOCK_D)
        b_word = tl.load(words_ptr + o_p * n_words + i_tile, mask=m_p, other=0)
        b_logsumexp = _finite(tl.load(logsumexp_ptr + o_p, mask=m_p, other=0.0))
        b_d_sum = tl.load(d_sum_ptr + o_p, mask=m_p, other=0.0)
        # Gradients of a mean over many positions would vanish in a half type: only their ratio to
        # the block's largest goes through it.
        b_scale = tl.max(tl.abs(b_d_sum), axis=0)
        b_scale = tl.where(b_scale > 0, b_scale, 1.0)
        b_dots = tl.dot(b_rows, tl.trans(b_hidden), input_precision="ieee")  # [BLOCK_S, BLOCK_P]
        b_logits = _shared_logits(b_dots, correction_ptr, b_word, o_s, n_shared, 0)
        b_share = tl.exp(b_logits - b_logsumexp[None, :]) * (b_d_sum / b_scale)[None, :]
        b_block = tl.dot(b_share.to(b_hidden.dtype), b_hidden, input_precision="ieee")
        b_out += b_scale * b_block
    tl.store(p_parts, b_out, mask=m_parts)


@triton.jit
def own_items(
    hidden_ptr,
    d_offset_ptr,
    order_ptr,
    starts_ptr,
    piece_starts_ptr,
    piece_items_ptr,
    n_items,
    n_candidates,
    parts_ptr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr,
    PIECE: tl.constexpr,
):
    """parts[piece] = Σ d_offset[p, c] hidden[p] over a piece of the entries of one item.

    Entries (p, c) stand sorted by item; no piece is longer than PIECE, however popular the item.
    """
    i_piece = tl.program_id(0)
    i_item = tl.load(piece_items_ptr + i_piece)
    if i_item < n_items:
        o_d = tl.arange(0, BLOCK_D)
        i_nth = i_piece - tl.load(piece_starts_ptr + i_item)
        i_first = tl.load(starts_ptr + i_item) + i_nth * PIECE
        i_last = tl.minimum(i_first + PIECE, tl.load(starts_ptr + i_item + 1))
        b_out = tl.zeros([BLOCK_E, BLOCK_D], tl.float32)
        for i_block in range(i_first, i_last, BLOCK_E):
            o_e = i_block + tl.arange(0, BLOCK_E)
            m_e = o_e < i_last
            i_entry = tl.load(order_ptr + o_e, mask=m_e, other=0)
            b_d_z = tl.load(d_offset_ptr + i_entry, mask=m_e, other=0.0)
            p_hidden = hidden_ptr + (i_entry // n_candidates)[:, None] * D + o_d[None, :]
            b_hidden = tl.load(p_hidden, mask=m_e[:, None] & (o_d < D)[None, :], other=0.0)
            b_out += b_d_z[:, None] * b_hidden.to(tl.float32)
        p_part = parts_ptr + i_piece.to(tl.int64) * D + o_d
        tl.store(p_part, tl.sum(b_out, axis=0), mask=o_d < D)


@triton.jit
def sum_items(
    parts_ptr,
    piece_starts_ptr,
    shared_parts_ptr,
    column_ptr,
    before_ptr,
    n_items,
    n_shared,
    n_splits,
    out_ptr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    ADD: tl.constexpr,
):
    """out[n] = before[n] + pieces of item n in order + its shared parts, the latter as n_splits.

    ADD: `before` is there.
    """
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    o_d = tl.arange(0, BLOCK_D)
    m_n = o_n < n_items
    m_d = o_d < D
    o_out = o_n.to(tl.int64)[:, None] * D + o_d[None, :]
    m_out = m_n[:, None] & m_d[None, :]
    if ADD:
        b_out = tl.load(before_ptr + o_out, mask=m_out, other=0.0)
    else:
        b_out = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    i_first = tl.load(piece_starts_ptr + o_n, mask=m_n, other=0)
    n_pieces = tl.load(piece_starts_ptr + o_n + 1, mask=m_n, other=0) - i_first
    for i_nth in range(tl.max(n_pieces, axis=0)):
        p_part = parts_ptr + (i_first + i_nth).to(tl.int64)[:, None] * D + o_d[None, :]
        m_part = (i_nth < n_pieces)[:, None] & m_d[None, :]
        b_out += tl.load(p_part, mask=m_part, other=0.0)
    if n_splits > 0:
        i_place = tl.load(column_ptr + o_n, mask=m_n, other=-1)
        m_part = (i_place >= 0)[:, None] & m_d[None, :]
        for i_split in range(n_splits):
            o_part = (i_split * n_shared + i_place).to(tl.int64) * D
            p_part = shared_parts_ptr + o_part[:, None] + o_d[None, :]
            b_out += tl.load(p_part, mask=m_part, other=0.0)
    tl.store(out_ptr + o_out, b_out, mask=m_out)
