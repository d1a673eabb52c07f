"""Device code of the token gate: tokens, gradients piece by piece of a domain token, their sums."""

import triton
import triton.language as tl


@triton.jit
def _rows(x_ptr, i_row, m_row, o_d, D: tl.constexpr):
    """Rows i_row of a contiguous [*, D] in fp32, for sums over D: [BLOCK_T, BLOCK_D], else 0."""
    m_x = m_row[:, None] & (o_d < D)[None, :]
    b_x = tl.load(x_ptr + i_row.to(tl.int64)[:, None] * D + o_d[None, :], mask=m_x, other=0.0)
    return b_x.to(tl.float32)


@triton.jit
def _inverse_norm(b_x, D: tl.constexpr, EPS: tl.constexpr):
    """1 / √(mean x² + eps) of each row."""
    return 1.0 / tl.sqrt(tl.sum(b_x * b_x, axis=1) * (1.0 / D) + EPS)


@triton.jit
def gate_kernel(
    hidden_ptr,
    keys_ptr,
    values_ptr,
    ids_ptr,
    scale_ptr,
    n_tokens,
    out_ptr,
    D: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """BLOCK_T tokens: h + σ(agreement / √D) v, h without a domain token."""
    o_t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    o_d = tl.arange(0, BLOCK_D)
    m_t = o_t < n_tokens
    i_row = tl.load(ids_ptr + o_t, mask=m_t, other=-1)
    m_gated = i_row >= 0
    b_h = _rows(hidden_ptr, o_t, m_t, o_d, D)  # [BLOCK_T, BLOCK_D]
    b_k = _rows(keys_ptr, i_row, m_gated, o_d, D)
    b_v = _rows(values_ptr, i_row, m_gated, o_d, D)
    # The same row for every token, but in the tile's layout: loads stay 16 bytes wide.
    b_scale = _rows(scale_ptr, tl.zeros([BLOCK_T], tl.int32), m_gated, o_d, D)
    b_inverse = _inverse_norm(b_h, D, EPS) * _inverse_norm(b_k, D, EPS)
    b_agreement = tl.sum(b_h * b_scale * b_k, axis=1) * b_inverse
    b_gate = 1.0 / (1.0 + tl.exp(-b_agreement * D**-0.5))
    b_out = tl.where(m_gated[:, None], b_h + b_gate[:, None] * b_v, b_h)
    p_out = out_ptr + o_t[:, None] * D + o_d[None, :]
    b_out = b_out.to(out_ptr.dtype.element_ty)  # one rounding, of the fp32 sum
    tl.store(p_out, b_out, mask=m_t[:, None] & (o_d < D)[None, :])


@triton.jit
def _finish_row(
    d_keys_ptr,
    d_values_ptr,
    b_d_scaled,
    b_d_values,
    b_k,
    b_scale,
    i_row,
    D: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Writes one row of the gradients of keys and values from sums over its tokens.

    b_d_scaled: [BLOCK_D] Σ A_t h_t, with which the key's norm and scale are gone through; b_k and
    b_scale: the same row BLOCK_T times, so that all stays in the layout of its loads.
    """
    o_d = tl.arange(0, BLOCK_D)
    o_t = tl.arange(0, BLOCK_T)
    b_inverse = _inverse_norm(b_k, D, EPS)
    b_d_k = b_d_scaled[None, :] * b_scale
    b_along = tl.sum(b_d_k * b_k, axis=1) * b_inverse * b_inverse * (1.0 / D)
    b_d_k -= b_along[:, None] * b_k
    o_out = i_row.to(tl.int64) * D
    p_keys = d_keys_ptr + o_out + tl.zeros([BLOCK_T, 1], tl.int32) + o_d[None, :]
    m_keys = (o_t == 0)[:, None] & (o_d < D)[None, :]
    tl.store(p_keys, b_d_k.to(d_keys_ptr.dtype.element_ty), mask=m_keys)
    b_d_values = b_d_values.to(d_values_ptr.dtype.element_ty)
    tl.store(d_values_ptr + o_out + o_d, b_d_values, mask=o_d < D)


@triton.jit
def gate_gradient_kernel(
    gradient_ptr,
    hidden_ptr,
    keys_ptr,
    values_ptr,
    scale_ptr,
    order_ptr,
    starts_ptr,
    piece_starts_ptr,
    piece_segments_ptr,
    n_rows,
    n_pieces,
    d_hidden_ptr,
    d_keys_ptr,
    d_values_ptr,
    key_parts_ptr,
    value_parts_ptr,
    scale_parts_ptr,
    D: tl.constexpr,
    EPS: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Every n-th piece: its tokens' gradients, and its domain token's, whole or in part.

    Segment 0 are the tokens without a domain token, segment j + 1 those of domain token j; a piece
    is at most PIECE tokens of one segment. Pieces past the last one have segment n_rows + 1.
    """
    i_program = tl.program_id(0)
    o_d = tl.arange(0, BLOCK_D)
    m_d = (o_d < D)[None, :]
    o_one = tl.zeros([BLOCK_T], tl.int32)
    m_one = o_one == 0
    b_scale = _rows(scale_ptr, o_one, m_one, o_d, D)
    b_d_scale = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    for i_piece in range(i_program, n_pieces, tl.num_programs(0)):
        i_segment = tl.load(piece_segments_ptr + i_piece)
        if i_segment <= n_rows:
            i_row = i_segment - 1
            i_first = tl.load(piece_starts_ptr + i_segment)
            start = tl.load(starts_ptr + i_segment) + (i_piece - i_first) * PIECE
            end = tl.minimum(start + PIECE, tl.load(starts_ptr + i_segment + 1))
            m_gated = (o_one + i_row) >= 0
            b_k = _rows(keys_ptr, o_one + i_row, m_gated, o_d, D)
            b_v = _rows(values_ptr, o_one + i_row, m_gated, o_d, D)
            b_inverse_k = _inverse_norm(b_k, D, EPS)
            b_d_scaled = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
            b_d_values = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
            for first in range(start, end, BLOCK_T):
                o_t = first + tl.arange(0, BLOCK_T)
                m_t = o_t < end
                i_token = tl.load(order_ptr + o_t, mask=m_t, other=0)
                b_g = _rows(gradient_ptr, i_token, m_t, o_d, D)
                b_h = _rows(hidden_ptr, i_token, m_t & m_gated, o_d, D)
                b_inverse_h = _inverse_norm(b_h, D, EPS)
                b_inverse = b_inverse_h * b_inverse_k
                b_dot = tl.sum(b_h * b_scale * b_k, axis=1)
                b_gate = 1.0 / (1.0 + tl.exp(-b_dot * b_inverse * D**-0.5))
                b_d_gate = tl.sum(b_g * b_v, axis=1)
                b_a = b_d_gate * b_gate * (1.0 - b_gate) * b_inverse * D**-0.5  # of b_dot
                b_along = b_a * b_dot * b_inverse_h * b_inverse_h * (1.0 / D)
                b_d_h = b_g + b_a[:, None] * b_scale * b_k - b_along[:, None] * b_h
                b_d_h = tl.where(m_gated[:, None], b_d_h, b_g)
                p_out = d_hidden_ptr + i_token.to(tl.int64)[:, None] * D + o_d[None, :]
                tl.store(p_out, b_d_h.to(d_hidden_ptr.dtype.element_ty), mask=m_t[:, None] & m_d)
                b_d_scaled += b_a[:, None] * b_h
                b_d_values += b_gate[:, None] * b_g
            if i_row >= 0:
                b_d_scale += b_d_scaled * b_k
                b_key_sum = tl.sum(b_d_scaled, axis=0)
                b_value_sum = tl.sum(b_d_values, axis=0)
                if tl.load(piece_starts_ptr + i_segment + 1) - i_first == 1:
                    _finish_row(
                        d_keys_ptr, d_values_ptr, b_key_sum, b_value_sum, b_k, b_scale, i_row, D,
                        EPS, BLOCK_T, BLOCK_D,
                    )  # fmt: skip
                else:
                    o_part = (tl.zeros([BLOCK_D], tl.int64) + i_piece) * D + o_d
                    tl.store(key_parts_ptr + o_part, b_key_sum, mask=o_d < D)
                    tl.store(value_parts_ptr + o_part, b_value_sum, mask=o_d < D)
    o_part = i_program.to(tl.int64) * D + o_d
    tl.store(scale_parts_ptr + o_part, tl.sum(b_d_scale, axis=0), mask=o_d < D)


@triton.jit
def sum_rows_kernel(
    keys_ptr,
    scale_ptr,
    piece_starts_ptr,
    key_parts_ptr,
    value_parts_ptr,
    d_keys_ptr,
    d_values_ptr,
    D: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A row of the gradients of keys and values from its pieces in order; 0 without any.

    A row of one piece is there already.
    """
    i_row = tl.program_id(0)
    start = tl.load(piece_starts_ptr + i_row + 1)
    end = tl.load(piece_starts_ptr + i_row + 2)
    if end - start != 1:
        o_d = tl.arange(0, BLOCK_D)
        o_one = tl.zeros([BLOCK_T], tl.int32)
        m_used = (o_one + end) > start  # the key of a row without tokens is not read
        b_k = _rows(keys_ptr, o_one + i_row, m_used, o_d, D)
        b_scale = _rows(scale_ptr, o_one, m_used, o_d, D)
        b_d_scaled = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
        b_d_values = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
        for first in range(start, end, BLOCK_T):
            o_p = first + tl.arange(0, BLOCK_T)
            b_d_scaled += _rows(key_parts_ptr, o_p, o_p < end, o_d, D)
            b_d_values += _rows(value_parts_ptr, o_p, o_p < end, o_d, D)
        _finish_row(
            d_keys_ptr, d_values_ptr, tl.sum(b_d_scaled, axis=0), tl.sum(b_d_values, axis=0), b_k,
            b_scale, i_row, D, EPS, BLOCK_T, BLOCK_D,
        )  # fmt: skip
