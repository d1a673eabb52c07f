"""Device code of attention: forward, and the two halves of backward.

Logits are kept in base 2: exp2 is one instruction, and the scale takes log2(e) along. A head of
D_A + D_B dimensions is two products, so that 96 costs 64 + 32 and not 128.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# Below any logit, yet finite: a row that has seen no key yet subtracts it from -inf, not -inf.
LOWEST = tl.constexpr(-1e38)


@triton.jit
def _block(i_slot, offsets_ptr, n_batch, n_rows, BLOCK: tl.constexpr):
    """Sequence of a grid slot, its first row and length, and the slot's first row within it.

    Padded rows take ceil(n_rows / BLOCK) slots a sequence. Packed rows start theirs at slot
    offsets[b] // BLOCK + b, which leaves room for ceil(length / BLOCK) of them whatever the
    lengths; slots left over get a first row behind the end. A sequence's last rows see the most
    keys, so they come first.
    """
    if offsets_ptr is None:
        n_blocks = tl.cdiv(n_rows, BLOCK)
        i_batch = i_slot // n_blocks
        start = i_batch.to(tl.int64) * n_rows
        length = n_rows
        i_block = i_slot - i_batch * n_blocks
    else:
        o_batch = tl.arange(0, 128)
        i_batch = -1
        for first in range(0, n_batch, 128):
            m_batch = first + o_batch < n_batch
            b_offset = tl.load(offsets_ptr + first + o_batch, mask=m_batch, other=0)  # [128]
            m_begun = m_batch & (b_offset // BLOCK + first + o_batch <= i_slot)
            i_batch += tl.sum(m_begun.to(tl.int32), 0)
        begin = tl.load(offsets_ptr + i_batch)
        length = tl.load(offsets_ptr + i_batch + 1) - begin
        n_blocks = tl.cdiv(length, BLOCK)
        i_block = i_slot - (begin // BLOCK + i_batch)
        start = begin.to(tl.int64)
    o_first = tl.where(i_block < n_blocks, n_blocks - 1 - i_block, n_blocks) * BLOCK
    return i_batch, start, length, o_first


@triton.jit
def _sequence(i_batch, offsets_ptr, n_rows):
    """First row and length of a sequence."""
    if offsets_ptr is None:
        start = i_batch.to(tl.int64) * n_rows
        length = n_rows
    else:
        begin = tl.load(offsets_ptr + i_batch)
        length = tl.load(offsets_ptr + i_batch + 1) - begin
        start = begin.to(tl.int64)
    return start, length


@triton.jit
def _base(i_batch, start, i_head, offsets_ptr, stride_b, stride_t, stride_h):
    """Offset of a sequence's first row in a tensor with these strides."""
    # Packed rows follow each other; a padded sequence has a stride of its own.
    first = i_batch.to(tl.int64) * stride_b if offsets_ptr is None else start * stride_t
    return first + i_head.to(tl.int64) * stride_h


@triton.jit
def _load(p_base, o_row, m_row, stride_t, FIRST: tl.constexpr, D: tl.constexpr):
    """Columns FIRST … FIRST + D - 1 of some rows, 0 where masked: [BLOCK, D]."""
    p_row = p_base + o_row.to(tl.int64)[:, None] * stride_t
    return tl.load(p_row + FIRST + tl.arange(0, D)[None, :], mask=m_row[:, None], other=0.0)


@triton.jit
def _store(p_base, o_row, m_row, stride_t, b_rows, FIRST: tl.constexpr, D: tl.constexpr):
    """Writes what `_load` would read."""
    p_row = p_base + o_row.to(tl.int64)[:, None] * stride_t
    p_rows = p_row + FIRST + tl.arange(0, D)[None, :]
    tl.store(p_rows, b_rows.to(p_base.dtype.element_ty), mask=m_row[:, None])


@triton.jit
def _buckets(b_query_day, b_key_day, N_BUCKETS: tl.constexpr):
    """Bits of the difference in days, capped: the exponent of a float that holds it exactly."""
    b_days = tl.maximum(b_query_day - b_key_day, 0.0)
    # A float of n bits has the biased exponent 126 + n, and 0.0 has 0.
    b_bits = (b_days.to(tl.int32, bitcast=True) >> 23) - 126
    return tl.minimum(tl.maximum(b_bits, 0), N_BUCKETS - 1)


@triton.jit
def attention_forward(
    query_ptr,
    key_ptr,
    value_ptr,
    cut_ptr,
    bias_table_ptr,
    query_day_ptr,
    key_day_ptr,
    query_offsets_ptr,
    key_offsets_ptr,
    n_batch,
    n_queries,
    n_keys,
    n_heads,
    n_rows,
    stride_qb,
    stride_qt,
    stride_qh,
    stride_kb,
    stride_kt,
    stride_kh,
    stride_vb,
    stride_vt,
    stride_vh,
    out_ptr,
    logsumexp_ptr,
    D_A: tl.constexpr,
    D_B: tl.constexpr,
    N_BUCKETS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One block of queries of one head, over the keys before the block's largest cut."""
    D: tl.constexpr = D_A + D_B
    SCALE: tl.constexpr = LOG2_E * D**-0.5
    i_head = tl.program_id(1)
    i_batch, q_start, q_length, o_first = _block(
        tl.program_id(0), query_offsets_ptr, n_batch, n_queries, BLOCK_M
    )
    k_start, k_length = _sequence(i_batch, key_offsets_ptr, n_keys)
    p_query = query_ptr + _base(
        i_batch, q_start, i_head, query_offsets_ptr, stride_qb, stride_qt, stride_qh
    )
    p_key = key_ptr + _base(
        i_batch, k_start, i_head, key_offsets_ptr, stride_kb, stride_kt, stride_kh
    )
    p_value = value_ptr + _base(
        i_batch, k_start, i_head, key_offsets_ptr, stride_vb, stride_vt, stride_vh
    )
    o_m = o_first + tl.arange(0, BLOCK_M)
    m_m = o_m < q_length  # [BLOCK_M]
    b_cut = tl.load(cut_ptr + q_start + o_m, mask=m_m, other=0).to(tl.int32)
    b_cut = tl.minimum(b_cut, k_length)
    n_seen = tl.max(b_cut, 0)
    b_query_a = _load(p_query, o_m, m_m, stride_qt, 0, D_A)
    b_out_a = tl.zeros([BLOCK_M, D_A], tl.float32)
    if D_B > 0:
        b_query_b = _load(p_query, o_m, m_m, stride_qt, D_A, D_B)
        b_out_b = tl.zeros([BLOCK_M, D_B], tl.float32)
    if N_BUCKETS > 0:
        p_bias = bias_table_ptr + i_head * N_BUCKETS
        b_query_day = tl.load(query_day_ptr + q_start + o_m, mask=m_m, other=0).to(tl.float32)
    b_max = tl.full([BLOCK_M], LOWEST, tl.float32)
    b_sum = tl.zeros([BLOCK_M], tl.float32)
    for first in range(0, n_seen, BLOCK_N):
        o_n = first + tl.arange(0, BLOCK_N)
        m_n = tl.arange(0, BLOCK_N) < n_seen - first  # [BLOCK_N]
        if N_BUCKETS > 0:
            # The products add to the bias, over the scale that they still get.
            b_key_day = tl.load(key_day_ptr + k_start + o_n, mask=m_n, other=0).to(tl.float32)
            i_bucket = _buckets(b_query_day[:, None], b_key_day[None, :], N_BUCKETS)
            b_logit = tl.load(p_bias + i_bucket).to(tl.float32) * D**0.5  # [M, N]
        else:
            b_logit = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        b_key = _load(p_key, o_n, m_n, stride_kt, 0, D_A)
        b_logit = tl.dot(b_query_a, tl.trans(b_key), b_logit, input_precision="ieee")
        if D_B > 0:
            b_key = _load(p_key, o_n, m_n, stride_kt, D_A, D_B)
            b_logit = tl.dot(b_query_b, tl.trans(b_key), b_logit, input_precision="ieee")
        b_logit *= SCALE
        b_logit = tl.where(o_n[None, :] < b_cut[:, None], b_logit, float("-inf"))
        b_new_max = tl.maximum(b_max, tl.max(b_logit, 1))
        b_weight = tl.exp2(b_logit - b_new_max[:, None])
        b_decay = tl.exp2(b_max - b_new_max)
        b_sum = b_sum * b_decay + tl.sum(b_weight, 1)
        b_max = b_new_max
        b_weight = b_weight.to(value_ptr.dtype.element_ty)  # the tensor cores' type
        b_value = _load(p_value, o_n, m_n, stride_vt, 0, D_A)
        b_out_a = tl.dot(b_weight, b_value, b_out_a * b_decay[:, None], input_precision="ieee")
        if D_B > 0:
            b_value = _load(p_value, o_n, m_n, stride_vt, D_A, D_B)
            b_out_b = tl.dot(b_weight, b_value, b_out_b * b_decay[:, None], input_precision="ieee")
    b_total = tl.where(b_cut == 0, 1.0, b_sum)  # a row without keys is 0 / 1
    if logsumexp_ptr is not None:
        o_scalar = i_head.to(tl.int64) * n_rows + q_start + o_m  # in a [H, rows] tensor
        tl.store(logsumexp_ptr + o_scalar, b_max + tl.log2(b_total), mask=m_m)
    b_share = (1.0 / b_total)[:, None]
    p_out = out_ptr + (q_start * n_heads + i_head) * D
    if D_B > 0:
        _store(p_out, o_m, m_m, n_heads * D, b_out_b * b_share, D_A, D_B)
    _store(p_out, o_m, m_m, n_heads * D, b_out_a * b_share, 0, D_A)


@triton.jit
def attention_backward_query(
    query_ptr,
    key_ptr,
    value_ptr,
    cut_ptr,
    bias_table_ptr,
    query_day_ptr,
    key_day_ptr,
    query_offsets_ptr,
    key_offsets_ptr,
    out_ptr,
    grad_out_ptr,
    logsumexp_ptr,
    n_batch,
    n_queries,
    n_keys,
    n_heads,
    n_rows,
    stride_qb,
    stride_qt,
    stride_qh,
    stride_kb,
    stride_kt,
    stride_kh,
    stride_vb,
    stride_vt,
    stride_vh,
    grad_query_ptr,
    delta_ptr,
    grad_bias_ptr,
    D_A: tl.constexpr,
    D_B: tl.constexpr,
    N_BUCKETS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Gradient of one block of queries, its part of the bias gradient, and delta for the keys.

    delta = Σ_d grad_out * out is what the softmax subtracts (FlashAttention-2, eq. 4).
    """
    D: tl.constexpr = D_A + D_B
    SCALE: tl.constexpr = LOG2_E * D**-0.5
    i_head = tl.program_id(1)
    i_batch, q_start, q_length, o_first = _block(
        tl.program_id(0), query_offsets_ptr, n_batch, n_queries, BLOCK_M
    )
    k_start, k_length = _sequence(i_batch, key_offsets_ptr, n_keys)
    p_query = query_ptr + _base(
        i_batch, q_start, i_head, query_offsets_ptr, stride_qb, stride_qt, stride_qh
    )
    p_key = key_ptr + _base(
        i_batch, k_start, i_head, key_offsets_ptr, stride_kb, stride_kt, stride_kh
    )
    p_value = value_ptr + _base(
        i_batch, k_start, i_head, key_offsets_ptr, stride_vb, stride_vt, stride_vh
    )
    o_row = (q_start * n_heads + i_head) * D  # in the contiguous tensors
    o_m = o_first + tl.arange(0, BLOCK_M)
    m_m = o_m < q_length  # [BLOCK_M]
    b_cut = tl.load(cut_ptr + q_start + o_m, mask=m_m, other=0).to(tl.int32)
    b_cut = tl.minimum(b_cut, k_length)
    n_seen = tl.max(b_cut, 0)
    b_query_a = _load(p_query, o_m, m_m, stride_qt, 0, D_A)
    b_grad_a = _load(grad_out_ptr + o_row, o_m, m_m, n_heads * D, 0, D_A)
    b_out = _load(out_ptr + o_row, o_m, m_m, n_heads * D, 0, D_A)
    b_delta = tl.sum(b_grad_a.to(tl.float32) * b_out.to(tl.float32), 1)
    b_result_a = tl.zeros([BLOCK_M, D_A], tl.float32)
    if D_B > 0:
        b_query_b = _load(p_query, o_m, m_m, stride_qt, D_A, D_B)
        b_grad_b = _load(grad_out_ptr + o_row, o_m, m_m, n_heads * D, D_A, D_B)
        b_out = _load(out_ptr + o_row, o_m, m_m, n_heads * D, D_A, D_B)
        b_delta += tl.sum(b_grad_b.to(tl.float32) * b_out.to(tl.float32), 1)
        b_result_b = tl.zeros([BLOCK_M, D_B], tl.float32)
    o_scalar = i_head.to(tl.int64) * n_rows + q_start + o_m  # in the [H, rows] tensors
    tl.store(delta_ptr + o_scalar, b_delta, mask=m_m)
    b_logsumexp = tl.load(logsumexp_ptr + o_scalar, mask=m_m, other=0.0)
    if N_BUCKETS > 0:
        p_bias = bias_table_ptr + i_head * N_BUCKETS
        b_query_day = tl.load(query_day_ptr + q_start + o_m, mask=m_m, other=0).to(tl.float32)
        o_bucket = tl.arange(0, 16)
        b_by_bucket = tl.zeros([BLOCK_M, 16], tl.float32)
    for first in range(0, n_seen, BLOCK_N):
        o_n = first + tl.arange(0, BLOCK_N)
        m_n = o_n < n_seen  # [BLOCK_N]
        b_key_a = _load(p_key, o_n, m_n, stride_kt, 0, D_A)
        b_value_a = _load(p_value, o_n, m_n, stride_vt, 0, D_A)
        b_logit = tl.dot(b_query_a, tl.trans(b_key_a), input_precision="ieee")  # [M, N]
        b_slope = tl.dot(b_grad_a, tl.trans(b_value_a), input_precision="ieee")  # [M, N]
        if D_B > 0:
            b_key_b = _load(p_key, o_n, m_n, stride_kt, D_A, D_B)
            b_value_b = _load(p_value, o_n, m_n, stride_vt, D_A, D_B)
            b_logit = tl.dot(b_query_b, tl.trans(b_key_b), b_logit, input_precision="ieee")
            b_slope = tl.dot(b_grad_b, tl.trans(b_value_b), b_slope, input_precision="ieee")
        b_logit *= SCALE
        if N_BUCKETS > 0:
            b_key_day = tl.load(key_day_ptr + k_start + o_n, mask=m_n, other=0).to(tl.float32)
            i_bucket = _buckets(b_query_day[:, None], b_key_day[None, :], N_BUCKETS)
            b_logit += tl.load(p_bias + i_bucket).to(tl.float32) * LOG2_E
        m_sees = o_n[None, :] < b_cut[:, None]  # [M, N]
        b_weight = tl.exp2(b_logit - b_logsumexp[:, None])
        b_slope = tl.where(m_sees, b_weight * (b_slope - b_delta[:, None]), 0.0)  # of the logits
        if N_BUCKETS > 0:
            for i in tl.static_range(N_BUCKETS):
                b_part = tl.sum(tl.where(i_bucket == i, b_slope, 0.0), 1)  # [BLOCK_M]
                b_by_bucket += tl.where(o_bucket[None, :] == i, b_part[:, None], 0.0)
        b_slope = b_slope.to(key_ptr.dtype.element_ty)  # the tensor cores' type
        b_result_a = tl.dot(b_slope, b_key_a, b_result_a, input_precision="ieee")
        if D_B > 0:
            b_result_b = tl.dot(b_slope, b_key_b, b_result_b, input_precision="ieee")
    _store(grad_query_ptr + o_row, o_m, m_m, n_heads * D, b_result_a * D**-0.5, 0, D_A)
    if D_B > 0:
        _store(grad_query_ptr + o_row, o_m, m_m, n_heads * D, b_result_b * D**-0.5, D_A, D_B)
    if N_BUCKETS > 0:
        i_program = tl.program_id(0).to(tl.int64) * n_heads + i_head
        tl.store(
            grad_bias_ptr + i_program * N_BUCKETS + o_bucket,
            tl.sum(b_by_bucket, 0),
            mask=o_bucket < N_BUCKETS,
        )


@triton.jit
def attention_backward_key(
    query_ptr,
    key_ptr,
    value_ptr,
    cut_ptr,
    bias_table_ptr,
    query_day_ptr,
    key_day_ptr,
    query_offsets_ptr,
    key_offsets_ptr,
    grad_out_ptr,
    logsumexp_ptr,
    delta_ptr,
    n_batch,
    n_queries,
    n_keys,
    n_heads,
    n_rows,
    stride_qb,
    stride_qt,
    stride_qh,
    stride_kb,
    stride_kt,
    stride_kh,
    stride_vb,
    stride_vt,
    stride_vh,
    grad_key_ptr,
    grad_value_ptr,
    D_A: tl.constexpr,
    D_B: tl.constexpr,
    N_BUCKETS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Gradient of one block of keys or of values, over the queries that see any of them.

    The other pointer is None: both sums at once spill, on sm_120 even with 64 dimensions.
    """
    D: tl.constexpr = D_A + D_B
    SCALE: tl.constexpr = LOG2_E * D**-0.5
    i_head = tl.program_id(1)
    i_batch, k_start, k_length, o_first = _block(
        tl.program_id(0), key_offsets_ptr, n_batch, n_keys, BLOCK_N
    )
    q_start, q_length = _sequence(i_batch, query_offsets_ptr, n_queries)
    p_query = query_ptr + _base(
        i_batch, q_start, i_head, query_offsets_ptr, stride_qb, stride_qt, stride_qh
    )
    p_key = key_ptr + _base(
        i_batch, k_start, i_head, key_offsets_ptr, stride_kb, stride_kt, stride_kh
    )
    p_value = value_ptr + _base(
        i_batch, k_start, i_head, key_offsets_ptr, stride_vb, stride_vt, stride_vh
    )
    p_grad_out = grad_out_ptr + (q_start * n_heads + i_head) * D
    o_n = o_first + tl.arange(0, BLOCK_N)
    m_n = o_n < k_length  # [BLOCK_N]
    # Cuts need not ascend (read-outs follow the tokens): from the first row that sees a key of this
    # block to the last that does.
    m_first, m_last = q_length, 0
    for first in range(0, q_length, 128):
        o_m = first + tl.arange(0, 128)
        b_cut = tl.load(cut_ptr + q_start + o_m, mask=o_m < q_length, other=0).to(tl.int32)
        m_sees = tl.minimum(b_cut, k_length) > o_first
        m_first = tl.minimum(m_first, tl.min(tl.where(m_sees, o_m, q_length), 0))
        m_last = tl.maximum(m_last, tl.max(tl.where(m_sees, o_m + 1, 0), 0))
    b_key_a = _load(p_key, o_n, m_n, stride_kt, 0, D_A)
    b_value_a = _load(p_value, o_n, m_n, stride_vt, 0, D_A)
    if D_B > 0:
        b_key_b = _load(p_key, o_n, m_n, stride_kt, D_A, D_B)
        b_value_b = _load(p_value, o_n, m_n, stride_vt, D_A, D_B)
    if grad_key_ptr is not None:
        b_grad_key_a = tl.zeros([BLOCK_N, D_A], tl.float32)
        if D_B > 0:
            b_grad_key_b = tl.zeros([BLOCK_N, D_B], tl.float32)
    if grad_value_ptr is not None:
        b_grad_value_a = tl.zeros([BLOCK_N, D_A], tl.float32)
        if D_B > 0:
            b_grad_value_b = tl.zeros([BLOCK_N, D_B], tl.float32)
    if N_BUCKETS > 0:
        p_bias = bias_table_ptr + i_head * N_BUCKETS
        b_key_day = tl.load(key_day_ptr + k_start + o_n, mask=m_n, other=0).to(tl.float32)
    for first in range(m_first, m_last, BLOCK_M):
        o_m = first + tl.arange(0, BLOCK_M)
        m_m = tl.arange(0, BLOCK_M) < m_last - first  # [BLOCK_M]
        b_cut = tl.load(cut_ptr + q_start + o_m, mask=m_m, other=0).to(tl.int32)
        o_scalar = i_head.to(tl.int64) * n_rows + q_start + o_m  # in the [H, rows] tensors
        b_logsumexp = tl.load(logsumexp_ptr + o_scalar, mask=m_m, other=0.0)
        b_query_a = _load(p_query, o_m, m_m, stride_qt, 0, D_A)
        b_logit = tl.dot(b_key_a, tl.trans(b_query_a), input_precision="ieee")  # [N, M]
        if D_B > 0:
            b_query_b = _load(p_query, o_m, m_m, stride_qt, D_A, D_B)
            b_logit = tl.dot(b_key_b, tl.trans(b_query_b), b_logit, input_precision="ieee")
        b_logit *= SCALE
        if N_BUCKETS > 0:
            b_query_day = tl.load(query_day_ptr + q_start + o_m, mask=m_m, other=0)
            i_bucket = _buckets(b_query_day.to(tl.float32)[None, :], b_key_day[:, None], N_BUCKETS)
            b_logit += tl.load(p_bias + i_bucket).to(tl.float32) * LOG2_E
        m_sees = o_n[:, None] < b_cut[None, :]  # [BLOCK_N, BLOCK_M]
        b_weight = tl.exp2(tl.where(m_sees, b_logit - b_logsumexp[None, :], float("-inf")))
        b_half = b_weight.to(grad_out_ptr.dtype.element_ty)  # the tensor cores' type
        b_grad_a = _load(p_grad_out, o_m, m_m, n_heads * D, 0, D_A)
        if D_B > 0:
            b_grad_b = _load(p_grad_out, o_m, m_m, n_heads * D, D_A, D_B)
        if grad_value_ptr is not None:
            b_grad_value_a = tl.dot(b_half, b_grad_a, b_grad_value_a, input_precision="ieee")
            if D_B > 0:
                b_grad_value_b = tl.dot(b_half, b_grad_b, b_grad_value_b, input_precision="ieee")
        if grad_key_ptr is not None:
            b_delta = tl.load(delta_ptr + o_scalar, mask=m_m, other=0.0)
            b_slope = tl.dot(b_value_a, tl.trans(b_grad_a), input_precision="ieee")  # [N, M]
            if D_B > 0:
                b_slope = tl.dot(b_value_b, tl.trans(b_grad_b), b_slope, input_precision="ieee")
            b_slope = (b_weight * (b_slope - b_delta[None, :])).to(query_ptr.dtype.element_ty)
            b_grad_key_a = tl.dot(b_slope, b_query_a, b_grad_key_a, input_precision="ieee")
            if D_B > 0:
                b_grad_key_b = tl.dot(b_slope, b_query_b, b_grad_key_b, input_precision="ieee")
    o_row = (k_start * n_heads + i_head) * D
    if grad_key_ptr is not None:
        _store(grad_key_ptr + o_row, o_n, m_n, n_heads * D, b_grad_key_a * D**-0.5, 0, D_A)
        if D_B > 0:
            _store(grad_key_ptr + o_row, o_n, m_n, n_heads * D, b_grad_key_b * D**-0.5, D_A, D_B)
    if grad_value_ptr is not None:
        _store(grad_value_ptr + o_row, o_n, m_n, n_heads * D, b_grad_value_a, 0, D_A)
        if D_B > 0:
            _store(grad_value_ptr + o_row, o_n, m_n, n_heads * D, b_grad_value_b, D_A, D_B)
