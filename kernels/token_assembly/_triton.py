import triton
import triton.language as tl


@triton.jit
def _sequence_of(offsets_ptr, o_row, n_sequences, n_search, BLOCK_T: tl.constexpr):
    """Sequence of each packed token row: the last b with offsets[b] + b <= row."""
    i_low = tl.zeros([BLOCK_T], tl.int32)
    i_high = tl.zeros([BLOCK_T], tl.int32) + n_sequences
    for _ in range(n_search):
        i_mid = (i_low + i_high) // 2
        # Every sequence has one row more than events: its [USER].
        b_first = tl.load(offsets_ptr + i_mid).to(tl.int32) + i_mid
        i_low = tl.where(b_first <= o_row, i_mid, i_low)
        i_high = tl.where(b_first <= o_row, i_high, i_mid)
    return i_low


@triton.jit
def _write(
    out_ptr,
    o_row,
    m_row,
    chunks,
    norm_weight_ptr,
    norm_bias_ptr,
    D: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Writes fp32 chunks [BLOCK_T, BLOCK_D] as rows of D, normed where there are norm weights."""
    N_CHUNKS: tl.constexpr = (D + BLOCK_D - 1) // BLOCK_D
    mean = tl.zeros([BLOCK_T], tl.float32)
    scale = tl.full([BLOCK_T], 1.0, tl.float32)
    if norm_weight_ptr is not None:
        # Masked columns hold 0, which the sum does not see; the squares must leave them out.
        for i in tl.static_range(N_CHUNKS):
            mean += tl.sum(chunks[i], axis=1)
        mean = mean / D
        variance = tl.zeros([BLOCK_T], tl.float32)
        for i in tl.static_range(N_CHUNKS):
            o_d = i * BLOCK_D + tl.arange(0, BLOCK_D)
            b_centred = tl.where((o_d < D)[None, :], chunks[i] - mean[:, None], 0.0)
            variance += tl.sum(b_centred * b_centred, axis=1)
        scale = 1.0 / tl.sqrt(variance / D + EPS)
    p_row = out_ptr + o_row.to(tl.int64)[:, None] * D  # [BLOCK_T, 1]
    for i in tl.static_range(N_CHUNKS):
        o_d = i * BLOCK_D + tl.arange(0, BLOCK_D)
        m_x = m_row[:, None] & (o_d < D)[None, :]
        b_x = chunks[i]
        if norm_weight_ptr is not None:
            o_tile = tl.zeros([BLOCK_T, 1], tl.int32) + o_d[None, :]  # as in _assemble_tokens
            b_weight = tl.load(norm_weight_ptr + o_tile, mask=m_x, other=0.0).to(tl.float32)
            b_bias = tl.load(norm_bias_ptr + o_tile, mask=m_x, other=0.0).to(tl.float32)
            b_x = (b_x - mean[:, None]) * scale[:, None] * b_weight + b_bias
        b_x = b_x.to(out_ptr.dtype.element_ty)  # one rounding, of the fp32 sum
        tl.store(p_row + o_d[None, :], b_x, mask=m_x)


@triton.jit
def _assemble_tokens(
    rows_ptr,
    index_ptr,
    user_ptr,
    table_ptr,
    codes_ptr,
    signals_ptr,
    signal_weight_ptr,
    offsets_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    i_block,
    n_tokens,
    n_sequences,
    n_search,
    stride_sequence,
    tokens_ptr,
    D: tl.constexpr,
    F: tl.constexpr,
    S: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Writes token rows i_block * BLOCK_T and following."""
    o_row = i_block * BLOCK_T + tl.arange(0, BLOCK_T)  # [BLOCK_T]
    m_row = o_row < n_tokens
    if offsets_ptr is None:
        i_sequence = o_row // stride_sequence
        m_user = m_row & (i_sequence * stride_sequence == o_row)
    else:
        i_sequence = _sequence_of(offsets_ptr, o_row, n_sequences, n_search, BLOCK_T)
        b_first = tl.load(offsets_ptr + i_sequence).to(tl.int32) + i_sequence
        m_user = m_row & (b_first == o_row)
    m_event = m_row & (m_user == 0)
    # So many [USER] rows stand before an event as sequences have begun.
    o_event = (o_row - i_sequence - 1).to(tl.int64)
    i_item = o_event
    if index_ptr is not None:
        i_item = tl.load(index_ptr + o_event, mask=m_event, other=0).to(tl.int64)
    chunks = ()  # type: tuple[tl.tensor, ...]
    codes = ()  # type: tuple[tl.tensor, ...]
    for f in tl.static_range(F):
        b_code = tl.load(codes_ptr + o_event * F + f, mask=m_event, other=0)
        codes += (b_code.to(tl.int64),)
    signals = ()  # type: tuple[tl.tensor, ...]
    for s in tl.static_range(S):
        b_signal = tl.load(signals_ptr + o_event * S + s, mask=m_event, other=0.0)
        signals += (b_signal.to(tl.float32),)
    p_user = user_ptr + i_sequence.to(tl.int64)[:, None] * D
    for d in tl.static_range(0, D, BLOCK_D):
        o_d = d + tl.arange(0, BLOCK_D)
        m_d = (o_d < D)[None, :]
        m_x = m_event[:, None] & m_d  # [BLOCK_T, BLOCK_D]
        p_item = rows_ptr + i_item[:, None] * D + o_d[None, :]
        b_x = tl.load(p_item, mask=m_x, other=0.0).to(tl.float32)
        b_user = tl.load(p_user + o_d[None, :], mask=m_user[:, None] & m_d, other=0.0)
        b_x += b_user.to(tl.float32)
        # The same row for every event, but in the tile's layout: alone it would lie two columns a
        # thread, and go through shared memory.
        o_tile = tl.zeros([BLOCK_T, 1], tl.int32) + o_d[None, :]
        for s in tl.static_range(S):
            b_weight = tl.load(signal_weight_ptr + s * D + o_tile, mask=m_x, other=0.0)
            b_x += signals[s][:, None] * b_weight.to(tl.float32)
        for f in tl.static_range(F):
            p_table = table_ptr + codes[f][:, None] * D + o_d[None, :]
            b_x += tl.load(p_table, mask=m_x, other=0.0).to(tl.float32)
        chunks += (b_x,)
    _write(
        tokens_ptr, o_row, m_row, chunks, norm_weight_ptr, norm_bias_ptr, D, EPS, BLOCK_T,
        BLOCK_D,
    )  # fmt: skip


@triton.jit
def _assemble_read_outs(
    user_ptr,
    read_out_ptr,
    read_sequence_ptr,
    ends_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    i_block,
    n_read_outs,
    read_outs_ptr,
    cuts_ptr,
    D: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Writes read-outs i_block * BLOCK_T and following, and their cuts."""
    chunks = ()  # type: tuple[tl.tensor, ...]
    o_read = i_block * BLOCK_T + tl.arange(0, BLOCK_T)
    m_read = o_read < n_read_outs
    i_user = o_read.to(tl.int64)
    if read_sequence_ptr is not None:
        i_user = tl.load(read_sequence_ptr + o_read, mask=m_read, other=0).to(tl.int64)
    b_end = tl.load(ends_ptr + o_read, mask=m_read, other=0)
    tl.store(cuts_ptr + o_read, b_end + 1, mask=m_read)
    for d in tl.static_range(0, D, BLOCK_D):
        o_d = d + tl.arange(0, BLOCK_D)
        m_x = m_read[:, None] & (o_d < D)[None, :]
        p_read = user_ptr + i_user[:, None] * D + o_d[None, :]
        b_x = tl.load(p_read, mask=m_x, other=0.0).to(tl.float32)
        o_tile = tl.zeros([BLOCK_T, 1], tl.int32) + o_d[None, :]  # as in _assemble_tokens
        b_type = tl.load(read_out_ptr + o_tile, mask=m_x, other=0.0).to(tl.float32)
        chunks += (b_x + b_type,)
    _write(
        read_outs_ptr, o_read, m_read, chunks, norm_weight_ptr, norm_bias_ptr, D, EPS, BLOCK_T,
        BLOCK_D,
    )  # fmt: skip


@triton.jit
def assemble_kernel(
    rows_ptr,
    index_ptr,
    user_ptr,
    table_ptr,
    codes_ptr,
    signals_ptr,
    signal_weight_ptr,
    read_out_ptr,
    read_sequence_ptr,
    ends_ptr,
    offsets_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    n_tokens,
    n_read_outs,
    n_sequences,
    n_search,
    stride_sequence,
    tokens_ptr,
    read_outs_ptr,
    cuts_ptr,
    D: tl.constexpr,
    F: tl.constexpr,
    S: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The first blocks write BLOCK_T token rows each, the others BLOCK_T read-outs."""
    i_block = tl.program_id(0)
    n_token_blocks = tl.cdiv(n_tokens, BLOCK_T)
    if i_block < n_token_blocks:
        _assemble_tokens(
            rows_ptr, index_ptr, user_ptr, table_ptr, codes_ptr, signals_ptr, signal_weight_ptr,
            offsets_ptr, norm_weight_ptr, norm_bias_ptr, i_block, n_tokens, n_sequences, n_search,
            stride_sequence, tokens_ptr, D, F, S, EPS, BLOCK_T, BLOCK_D,
        )  # fmt: skip
    else:
        _assemble_read_outs(
            user_ptr, read_out_ptr, read_sequence_ptr, ends_ptr, norm_weight_ptr, norm_bias_ptr,
            i_block - n_token_blocks, n_read_outs, read_outs_ptr, cuts_ptr, D, EPS, BLOCK_T,
            BLOCK_D,
        )  # fmt: skip


@triton.jit
def segment_sum_kernel(
    source_ptr,
    order_ptr,
    starts_ptr,
    base_ptr,
    base_rows_ptr,
    out_ptr,
    D: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """out[i] = base[base_rows[i]] + Σ source[order[starts[i] : starts[i + 1]]], in that order."""
    i_segment = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    m_d = o_d < D
    start = tl.load(starts_ptr + i_segment)
    end = tl.load(starts_ptr + i_segment + 1)
    b_sum = tl.zeros([BLOCK_T, BLOCK_D], tl.float32)
    if base_ptr is not None:
        i_base = tl.load(base_rows_ptr + i_segment).to(tl.int64)
        m_base = (tl.arange(0, BLOCK_T) == 0)[:, None] & m_d[None, :]
        o_base = tl.zeros([BLOCK_T, 1], tl.int64) + i_base * D
        b_sum += tl.load(base_ptr + o_base + o_d[None, :], mask=m_base, other=0.0).to(tl.float32)
    for first in range(start, end, BLOCK_T):
        o_t = first + tl.arange(0, BLOCK_T)
        m_t = o_t < end
        i_row = tl.load(order_ptr + o_t, mask=m_t, other=0).to(tl.int64)
        p_source = source_ptr + i_row[:, None] * D + o_d[None, :]
        b_sum += tl.load(p_source, mask=m_t[:, None] & m_d[None, :], other=0.0).to(tl.float32)
    b_out = tl.sum(b_sum, axis=0)  # [BLOCK_D]
    tl.store(out_ptr + i_segment * D + o_d, b_out.to(out_ptr.dtype.element_ty), mask=m_d)


@triton.jit
def table_gradient_kernel(
    gradient_ptr,
    event_rows_ptr,
    codes_ptr,
    signals_ptr,
    n_events,
    n_table,
    n_split,
    partial_ptr,
    D: tl.constexpr,
    F: tl.constexpr,
    S: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """partial[split] = A @ gradient of n_split events; A [V + S, T] counts codes, holds signals."""
    i_v, i_d, i_split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    o_v = i_v * BLOCK_V + tl.arange(0, BLOCK_V)
    o_d = i_d * BLOCK_D + tl.arange(0, BLOCK_D)
    m_d = o_d < D
    start = i_split * n_split
    end = tl.minimum(start + n_split, n_events)
    b_sum = tl.zeros([BLOCK_V, BLOCK_D], tl.float32)
    for first in range(start, end, BLOCK_T):
        o_t = first + tl.arange(0, BLOCK_T)
        m_t = o_t < end
        o_event = o_t.to(tl.int64)
        i_row = tl.load(event_rows_ptr + o_t, mask=m_t, other=0).to(tl.int64)
        p_gradient = gradient_ptr + i_row[:, None] * D + o_d[None, :]
        b_gradient = tl.load(p_gradient, mask=m_t[:, None] & m_d[None, :], other=0.0)
        b_a = tl.zeros([BLOCK_V, BLOCK_T], b_gradient.dtype)  # counts up to F are exact
        for f in tl.static_range(F):
            b_code = tl.load(codes_ptr + o_event * F + f, mask=m_t, other=-1).to(tl.int32)
            b_a += (o_v[:, None] == b_code[None, :]).to(b_a.dtype)
        if (i_v + 1) * BLOCK_V > n_table and S > 0:
            o_s = o_v - n_table
            m_s = (o_s >= 0) & (o_s < S)
            p_signal = signals_ptr + o_event[None, :] * S + o_s[:, None]
            b_signal = tl.load(p_signal, mask=m_s[:, None] & m_t[None, :], other=0.0)
            b_a += b_signal.to(b_a.dtype)
        b_sum = tl.dot(b_a, b_gradient, b_sum, input_precision="ieee")
    o_out = (i_split * (n_table + S) + o_v).to(tl.int64)
    p_out = partial_ptr + o_out[:, None] * D + o_d[None, :]
    tl.store(p_out, b_sum, mask=(o_v < n_table + S)[:, None] & m_d[None, :])


@triton.jit
def _tag_block(
    tag_bits_ptr,
    i_item,
    m_n,
    i_word,
    n_words,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """0 and 1 [BLOCK_N, BLOCK_V] of the words from `i_word` on; each word is loaded once."""
    BLOCK_W: tl.constexpr = BLOCK_V // 32
    o_w = i_word + tl.arange(0, BLOCK_W)
    p_word = tag_bits_ptr + i_item[:, None] * n_words + o_w[None, :]
    b_word = tl.load(p_word, mask=m_n[:, None] & (o_w < n_words)[None, :], other=0)
    b_bit = (b_word[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
    return tl.reshape(b_bit, [BLOCK_N, BLOCK_V]).to(DTYPE)


@triton.jit
def _tag_sums(
    tag_bits_ptr,
    tag_weight_ptr,
    i_item,
    m_n,
    n_tags,
    n_words,
    DA: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_A: tl.constexpr,
):
    """Σ tag_weight of the items' tags, [BLOCK_N, BLOCK_A] fp32, 0 past DA."""
    o_a = tl.arange(0, BLOCK_A)
    b_sum = tl.zeros([BLOCK_N, BLOCK_A], tl.float32)
    for first in range(0, n_tags, BLOCK_V):
        o_v = first + tl.arange(0, BLOCK_V)
        b_tag = _tag_block(tag_bits_ptr, i_item, m_n, first // 32, n_words, BLOCK_N, BLOCK_V, DTYPE)
        p_weight = tag_weight_ptr + o_v[:, None] * DA + o_a[None, :]
        m_weight = (o_v < n_tags)[:, None] & (o_a < DA)[None, :]
        b_weight = tl.load(p_weight, mask=m_weight, other=0.0).to(DTYPE)
        b_sum = tl.dot(b_tag, b_weight, b_sum, input_precision="ieee")
    return b_sum


@triton.jit
def _semantic(text_ptr, delta_ptr, i_text, i_item, m_n, o_e, DE: tl.constexpr, DTYPE: tl.constexpr):
    """text + Δ of the items, [BLOCK_N, len(o_e)], added in fp32, 0 past DE."""
    m_e = m_n[:, None] & (o_e < DE)[None, :]
    b_text = tl.load(text_ptr + i_text[:, None] * DE + o_e[None, :], mask=m_e, other=0.0)
    b_delta = tl.load(delta_ptr + i_item[:, None] * DE + o_e[None, :], mask=m_e, other=0.0)
    return (b_text.to(tl.float32) + b_delta.to(tl.float32)).to(DTYPE)


@triton.jit
def unfolded_kernel(
    index_ptr,
    text_ptr,
    text_index_ptr,
    delta_ptr,
    tag_bits_ptr,
    tag_weight_ptr,
    weight_ptr,
    bias_ptr,
    n_rows,
    n_tags,
    n_words,
    rows_ptr,
    D: tl.constexpr,
    DE: tl.constexpr,
    DA: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Each block holds BLOCK_N items' v in registers and multiplies it by all of the projection."""
    DTYPE: tl.constexpr = rows_ptr.dtype.element_ty
    WIDTH: tl.constexpr = DE + DA
    N_CHUNKS: tl.constexpr = (DE + BLOCK_E - 1) // BLOCK_E
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_n = o_n < n_rows
    i_item = tl.load(index_ptr + o_n, mask=m_n, other=0).to(tl.int64)
    i_text = tl.load(text_index_ptr + i_item, mask=m_n, other=0).to(tl.int64)
    semantic = ()  # type: tuple[tl.tensor, ...]
    for i in tl.static_range(N_CHUNKS):
        o_e = i * BLOCK_E + tl.arange(0, BLOCK_E)
        semantic += (_semantic(text_ptr, delta_ptr, i_text, i_item, m_n, o_e, DE, DTYPE),)
    b_sum = _tag_sums(
        tag_bits_ptr, tag_weight_ptr, i_item, m_n, n_tags, n_words, DA, DTYPE, BLOCK_N, BLOCK_V,
        BLOCK_A,
    )  # fmt: skip
    b_attribute = b_sum.to(DTYPE)  # the projection's operand, rounded as torch would
    o_a = tl.arange(0, BLOCK_A)
    p_out = rows_ptr + o_n.to(tl.int64)[:, None] * D
    for first in range(0, D, BLOCK_D):
        o_d = first + tl.arange(0, BLOCK_D)
        m_d = (o_d < D)[None, :]
        p_weight = weight_ptr + o_d[None, :] * WIDTH  # [1, BLOCK_D]
        m_a = (o_a < DA)[:, None] & m_d
        b_weight = tl.load(p_weight + DE + o_a[:, None], mask=m_a, other=0.0).to(DTYPE)
        b_row = tl.dot(b_attribute, b_weight, input_precision="ieee")
        for i in tl.static_range(N_CHUNKS):
            o_e = i * BLOCK_E + tl.arange(0, BLOCK_E)
            m_e = (o_e < DE)[:, None] & m_d
            b_weight = tl.load(p_weight + o_e[:, None], mask=m_e, other=0.0).to(DTYPE)
            b_row = tl.dot(semantic[i], b_weight, b_row, input_precision="ieee")
        o_tile = tl.zeros([BLOCK_N, 1], tl.int32) + o_d[None, :]  # as in _assemble_tokens
        b_row += tl.load(bias_ptr + o_tile, mask=m_n[:, None] & m_d, other=0.0).to(tl.float32)
        b_row = b_row.to(rows_ptr.dtype.element_ty)
        tl.store(p_out + o_d[None, :], b_row, mask=m_n[:, None] & m_d)


@triton.jit
def attributes_kernel(
    index_ptr,
    tag_bits_ptr,
    tag_weight_ptr,
    n_rows,
    n_tags,
    n_words,
    attributes_ptr,
    DA: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_A: tl.constexpr,
):
    """Σ tag_weight of the items' tags, for the gradient of the projection."""
    DTYPE: tl.constexpr = attributes_ptr.dtype.element_ty
    o_n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_n = o_n < n_rows
    o_a = tl.arange(0, BLOCK_A)
    i_item = tl.load(index_ptr + o_n, mask=m_n, other=0).to(tl.int64)
    b_sum = _tag_sums(
        tag_bits_ptr, tag_weight_ptr, i_item, m_n, n_tags, n_words, DA, DTYPE, BLOCK_N, BLOCK_V,
        BLOCK_A,
    )  # fmt: skip
    p_out = attributes_ptr + o_n.to(tl.int64)[:, None] * DA + o_a[None, :]
    tl.store(p_out, b_sum.to(DTYPE), mask=m_n[:, None] & (o_a < DA)[None, :])


@triton.jit
def items_gradient_kernel(
    gradient_ptr,
    index_ptr,
    weight_ptr,
    n_rows,
    delta_gradient_ptr,
    attribute_gradient_ptr,
    D: tl.constexpr,
    DE: tl.constexpr,
    DA: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """gradient @ W: the first DE columns go to the items' rows of Δ, the rest to attributes."""
    DTYPE: tl.constexpr = gradient_ptr.dtype.element_ty
    WIDTH: tl.constexpr = DE + DA
    o_c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    o_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    m_n = o_n < n_rows
    m_c = o_c < WIDTH
    o_row = o_n.to(tl.int64)
    b_sum = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for first in range(0, D, BLOCK_K):
        o_k = first + tl.arange(0, BLOCK_K)
        m_k = o_k < D
        p_gradient = gradient_ptr + o_row[:, None] * D + o_k[None, :]
        b_gradient = tl.load(p_gradient, mask=m_n[:, None] & m_k[None, :], other=0.0).to(DTYPE)
        p_weight = weight_ptr + o_k[:, None] * WIDTH + o_c[None, :]
        b_weight = tl.load(p_weight, mask=m_k[:, None] & m_c[None, :], other=0.0).to(DTYPE)
        b_sum = tl.dot(b_gradient, b_weight, b_sum, input_precision="ieee")
    i_item = tl.load(index_ptr + o_n, mask=m_n, other=0).to(tl.int64)
    p_delta = delta_gradient_ptr + i_item[:, None] * DE + o_c[None, :]
    b_delta = b_sum.to(delta_gradient_ptr.dtype.element_ty)
    tl.store(p_delta, b_delta, mask=m_n[:, None] & (o_c < DE)[None, :])
    p_attribute = attribute_gradient_ptr + o_row[:, None] * DA + (o_c - DE)[None, :]
    tl.store(p_attribute, b_sum.to(DTYPE), mask=m_n[:, None] & (m_c & (o_c >= DE))[None, :])


@triton.jit
def projection_gradient_kernel(
    gradient_ptr,
    index_ptr,
    text_ptr,
    text_index_ptr,
    delta_ptr,
    attributes_ptr,
    n_rows,
    n_split,
    partial_ptr,
    D: tl.constexpr,
    DE: tl.constexpr,
    DA: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """partial[split] = gradientᵀ @ [text + Δ ; attributes] of n_split items, gathered again."""
    DTYPE: tl.constexpr = gradient_ptr.dtype.element_ty
    WIDTH: tl.constexpr = DE + DA
    i_c, i_d, i_split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    o_c = i_c * BLOCK_C + tl.arange(0, BLOCK_C)
    o_d = i_d * BLOCK_D + tl.arange(0, BLOCK_D)
    m_d = o_d < D
    m_a = (o_c >= DE) & (o_c < WIDTH)
    start = i_split * n_split
    end = tl.minimum(start + n_split, n_rows)
    b_sum = tl.zeros([BLOCK_D, BLOCK_C], tl.float32)
    for first in range(start, end, BLOCK_N):
        o_n = first + tl.arange(0, BLOCK_N)
        m_n = o_n < end
        o_row = o_n.to(tl.int64)
        p_gradient = gradient_ptr + o_row[:, None] * D + o_d[None, :]
        b_gradient = tl.load(p_gradient, mask=m_n[:, None] & m_d[None, :], other=0.0).to(DTYPE)
        i_item = tl.load(index_ptr + o_n, mask=m_n, other=0).to(tl.int64)
        i_text = tl.load(text_index_ptr + i_item, mask=m_n, other=0).to(tl.int64)
        b_v = _semantic(text_ptr, delta_ptr, i_text, i_item, m_n, o_c, DE, DTYPE)
        # Each column is in one of the parts and 0 in the other: the sum joins them.
        p_attribute = attributes_ptr + o_row[:, None] * DA + (o_c - DE)[None, :]
        b_v += tl.load(p_attribute, mask=m_n[:, None] & m_a[None, :], other=0.0)
        b_sum = tl.dot(tl.trans(b_gradient), b_v, b_sum, input_precision="ieee")
    p_out = partial_ptr + (i_split * D + o_d).to(tl.int64)[:, None] * WIDTH + o_c[None, :]
    tl.store(p_out, b_sum, mask=m_d[:, None] & (o_c < WIDTH)[None, :])


@triton.jit
def tags_gradient_kernel(
    attribute_gradient_ptr,
    index_ptr,
    tag_bits_ptr,
    n_rows,
    n_tags,
    n_words,
    n_split,
    partial_ptr,
    DA: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_A: tl.constexpr,
):
    """partial[split] = bitsᵀ @ attribute gradient of n_split items."""
    DTYPE: tl.constexpr = attribute_gradient_ptr.dtype.element_ty
    i_v, i_split = tl.program_id(0), tl.program_id(1)
    o_v = i_v * BLOCK_V + tl.arange(0, BLOCK_V)
    o_a = tl.arange(0, BLOCK_A)
    start = i_split * n_split
    end = tl.minimum(start + n_split, n_rows)
    b_sum = tl.zeros([BLOCK_V, BLOCK_A], tl.float32)
    for first in range(start, end, BLOCK_N):
        o_n = first + tl.arange(0, BLOCK_N)
        m_n = o_n < end
        i_item = tl.load(index_ptr + o_n, mask=m_n, other=0).to(tl.int64)
        i_word = i_v * (BLOCK_V // 32)
        b_tag = _tag_block(tag_bits_ptr, i_item, m_n, i_word, n_words, BLOCK_N, BLOCK_V, DTYPE)
        p_gradient = attribute_gradient_ptr + o_n.to(tl.int64)[:, None] * DA + o_a[None, :]
        b_gradient = tl.load(p_gradient, mask=m_n[:, None] & (o_a < DA)[None, :], other=0.0)
        b_sum = tl.dot(tl.trans(b_tag), b_gradient, b_sum, input_precision="ieee")
    p_out = partial_ptr + (i_split * n_tags + o_v).to(tl.int64)[:, None] * DA + o_a[None, :]
    tl.store(p_out, b_sum, mask=(o_v < n_tags)[:, None] & (o_a < DA)[None, :])
