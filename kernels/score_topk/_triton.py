"""Device code of score_topk: a scan that lists each chunk's best, a merge that proves them."""

import triton
import triton.language as tl

WORD = tl.constexpr(32)  # items a mask word
MISSING = tl.constexpr(-(1 << 63))  # key of no item, below every other
LAST_INDEX = tl.constexpr((1 << 31) - 1)


@triton.constexpr_function
def _log2(n):
    return n.bit_length() - 1


@triton.jit
def _rounds(b_row, i_down, RUN: tl.constexpr):
    """Bitonic merge of each RUN of [n, m], falling where i_down is 1; None: by turns."""
    for i in tl.static_range(_log2(RUN)):
        b_pair = tl.reshape(b_row, [b_row.numel * 2**i // RUN, 2, RUN // 2 // 2**i])
        # A pair's sum less one of it is the other, modulo 2^64 too; the interpreter is quick at
        # sums, and slow at the exchange that tl.sort is made of.
        b_other = tl.sum(b_pair, axis=1, keep_dims=True) - b_pair
        i_side = tl.arange(0, 2)[None, :, None]
        if i_down is None:
            o_pair = tl.arange(0, b_row.numel * 2**i // RUN)
            m_small = ((o_pair // 2**i & 1) ^ 1)[:, None, None] == i_side
        else:
            m_small = i_side == i_down
        b_row = tl.reshape(tl.where((b_pair > b_other) == m_small, b_other, b_pair), b_row.shape)
    return b_row


@triton.jit
def _best(b_row, RUN: tl.constexpr, K: tl.constexpr, i_down):
    """The K largest of each row of [n, m], as [n, K] that falls where i_down is 1, else rises.

    RUN: length of the runs that already fall, rise, fall and so on along m; 1 where nothing is
    sorted, m / 2 where one bitonic merge is enough. Bitonic top-k (Shanbhag et al., 2018).
    """
    N: tl.constexpr = b_row.shape[0]
    M: tl.constexpr = b_row.shape[1]
    for i in tl.static_range(_log2(RUN) + 1, _log2(K) + 1):
        b_row = _rounds(b_row, None if 2**i < M else i_down, 2**i)
    for i in tl.static_range(_log2(M) - _log2(K)):
        # A falling run beside a rising one: the larger of each pair are the best of both.
        b_row = tl.max(tl.reshape(b_row, [N * (M // K >> i + 1), 2, K]), axis=1)
        b_row = tl.reshape(b_row, [N, M >> i + 1])
        b_row = _rounds(b_row, None if M >> i + 1 > K else i_down, K)
    return b_row


@triton.jit
def _tile_keys(
    b_q,  # [Q, BLOCK_D]
    items_ptr,
    bias_ptr,
    p_mask,  # [Q, 1], start of each query's words
    m_q,  # [Q]
    i_tile,
    i_chunk,
    n_items,
    n_chunks,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    TILE: tl.constexpr,
    HAS_MASK: tl.constexpr,
):
    """Keys of a tile [Q, TILE]: the one place that scores, so that every path has the same bits.

    A chunk owns every n_chunks-th word of 32 items. Keys sort as the answer does, score descending,
    then index ascending, and are unique: the score's bits, reordered to compare as integers, above
    the inverted index. A NaN or -inf score is no item.
    """
    WORDS: tl.constexpr = TILE // WORD
    o_d = tl.arange(0, BLOCK_D)
    o_t = tl.arange(0, TILE)
    o_n = ((i_tile * WORDS + o_t // WORD) * n_chunks + i_chunk) * WORD + o_t % WORD  # [TILE]
    m_n = o_n < n_items
    b_x = tl.load(
        items_ptr + o_n.to(tl.int64)[:, None] * D + o_d[None, :],
        mask=m_n[:, None] & (o_d < D)[None, :],
        other=0.0,
    )  # [TILE, BLOCK_D]
    b_bias = tl.load(bias_ptr + o_n, mask=m_n, other=0.0)  # [TILE]
    b_score = tl.dot(b_q, tl.trans(b_x), input_precision="ieee") + b_bias[None, :]
    m_keep = m_q[:, None] & m_n[None, :]
    if HAS_MASK:
        o_w = (i_tile * WORDS + tl.arange(0, WORDS)) * n_chunks + i_chunk  # [WORDS]
        # Words, then bits: lane by lane each word would be read 32 times.
        b_word = tl.load(
            p_mask + o_w[None, :],
            mask=m_q[:, None] & (o_w * WORD < n_items)[None, :],
            other=0,
        )  # [Q, WORDS]
        b_bit = (b_word[:, :, None] >> tl.arange(0, WORD)[None, None, :]) & 1
        m_keep = m_keep & (tl.reshape(b_bit, m_keep.shape) != 0)
    m_keep = m_keep & (b_score > float("-inf"))
    i_bits = b_score.to(tl.int32, bitcast=True)
    i_order = i_bits ^ ((i_bits >> 31) & LAST_INDEX)
    i_order = tl.where(b_score == 0.0, 0, i_order)  # -0.0 ties with 0.0
    b_key = (i_order.to(tl.int64) << 32) | (o_n ^ LAST_INDEX).to(tl.int64)[None, :]
    return tl.where(m_keep, b_key, MISSING)  # [Q, TILE]


@triton.jit
def scan(
    queries_ptr,
    items_ptr,
    bias_ptr,
    mask_ptr,
    n_queries,
    n_items,
    n_words,
    n_chunks,
    lists_ptr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    TILE: tl.constexpr,
    LEVELS: tl.constexpr,  # 2 or 4
    KEEP: tl.constexpr,
    HAS_MASK: tl.constexpr,
):
    """The best of a chunk for BLOCK_Q queries, and a bound on everything else in it.

    Each of the tile's TILE columns keeps the LEVELS best of the items that pass it, so nothing is
    sorted until the chunk ends. The chunk's list [KEEP] falls (in odd chunks it rises); its lowest
    place is the bound instead: the items listed are those of the chunk whose key is not below it.
    """
    o_q = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    i_chunk = tl.program_id(1)
    m_q = o_q < n_queries
    o_d = tl.arange(0, BLOCK_D)
    b_q = tl.load(
        queries_ptr + o_q.to(tl.int64)[:, None] * D + o_d[None, :],
        mask=m_q[:, None] & (o_d < D)[None, :],
        other=0.0,
    )  # [BLOCK_Q, BLOCK_D]
    p_mask = mask_ptr + o_q.to(tl.int64)[:, None] * n_words if HAS_MASK else None

    b_best0 = tl.full([BLOCK_Q, TILE], MISSING, tl.int64)
    b_best1 = b_best0
    b_best2 = b_best0
    b_best3 = b_best0
    b_left = b_best0  # the best that no level keeps
    n_tiles = tl.cdiv(tl.cdiv(n_words - i_chunk, n_chunks), TILE // WORD)
    for i_tile in range(n_tiles):
        b_key = _tile_keys(
            b_q, items_ptr, bias_ptr, p_mask, m_q, i_tile, i_chunk, n_items, n_chunks,
            D, BLOCK_D, TILE, HAS_MASK,
        )  # fmt: skip
        b_next = tl.minimum(b_best0, b_key)
        b_best0 = tl.maximum(b_best0, b_key)
        b_key = tl.minimum(b_best1, b_next)
        b_best1 = tl.maximum(b_best1, b_next)
        if LEVELS == 4:
            b_next = tl.minimum(b_best2, b_key)
            b_best2 = tl.maximum(b_best2, b_key)
            b_key = tl.minimum(b_best3, b_next)
            b_best3 = tl.maximum(b_best3, b_next)
        b_left = tl.maximum(b_left, b_key)

    b_left = tl.max(b_left, axis=1)  # [BLOCK_Q]
    if LEVELS == 2:
        b_all = tl.permute(tl.join(b_best0, b_best1), 0, 2, 1)
    else:
        b_all = tl.join(tl.join(b_best0, b_best1), tl.join(b_best2, b_best3))
        b_all = tl.permute(b_all, 0, 2, 3, 1)
    i_down = (i_chunk & 1) ^ 1  # the merge wants every other chunk's list rising
    b_list = _best(tl.reshape(b_all, [BLOCK_Q, LEVELS * TILE]), 1, KEEP, i_down)
    # The bound is above all that is left, the list's last too: it takes that one's place.
    b_left = tl.maximum(b_left, tl.min(b_list, axis=1))
    b_bound = tl.where(b_left == MISSING, MISSING, b_left + 1)[:, None]
    b_list = tl.where(b_list < b_bound, MISSING, b_list)
    o_k = tl.arange(0, KEEP)
    b_list = tl.where(o_k[None, :] == (KEEP - 1) * i_down, b_bound, b_list)
    o_list = o_q.to(tl.int64) * n_chunks + i_chunk
    tl.store(lists_ptr + o_list[:, None] * KEEP + o_k[None, :], b_list, mask=m_q[:, None])


@triton.jit
def _insert(b_best, b_key, K: tl.constexpr, TILE: tl.constexpr):
    """The K best [1, K], falling, of them and [1, TILE] others; TILE <= K."""
    m_end = tl.arange(0, K // TILE) == K // TILE - 1
    b_new = tl.where(m_end[:, None], _best(b_key, 1, TILE, 0), MISSING)  # rises: a merge is enough
    return _best(tl.maximum(b_best, tl.reshape(b_new, [1, K])), K // 2, K, 1)


@triton.jit
def merge(
    queries_ptr,
    items_ptr,
    bias_ptr,
    mask_ptr,
    lists_ptr,
    n_items,
    n_words,
    n_chunks,
    k,
    values_ptr,
    indices_ptr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    TILE: tl.constexpr,
    LISTS: tl.constexpr,  # at least n_chunks
    KEEP: tl.constexpr,
    K: tl.constexpr,
    HAS_MASK: tl.constexpr,
):
    """The k best of a query's lists; a chunk whose bound is above the k-th is read again, whole."""
    i_q = tl.program_id(0).to(tl.int64)
    p_lists = lists_ptr + i_q * n_chunks * KEEP
    o_l = tl.arange(0, LISTS * KEEP)[None, :]
    b_lists = tl.load(p_lists + o_l, mask=o_l < n_chunks * KEEP, other=MISSING)  # [1, LISTS * KEEP]
    m_bound = o_l % KEEP == (KEEP - 1) * ((o_l // KEEP & 1) ^ 1)
    b_bounds = tl.where(m_bound, b_lists, MISSING)
    b_bounds = tl.max(tl.reshape(b_bounds, [LISTS, KEEP]), axis=1)  # [LISTS]
    b_best = _best(tl.where(m_bound, MISSING, b_lists), KEEP, K, 1)  # [1, K]
    o_k = tl.arange(0, K)[None, :]
    i_kth = tl.max(tl.where(o_k == k - 1, b_best, MISSING))

    if tl.max(b_bounds) > i_kth:
        o_row = tl.arange(0, BLOCK_Q)  # a tensor core takes 16 at least; only the first is a query
        o_d = tl.arange(0, BLOCK_D)
        m_q = o_row == 0
        b_q = tl.load(
            queries_ptr + i_q * D + o_row[:, None] * 0 + o_d[None, :],
            mask=m_q[:, None] & (o_d < D)[None, :],
            other=0.0,
        )  # [BLOCK_Q, BLOCK_D]
        p_mask = mask_ptr + i_q * n_words + o_row[:, None] * 0 if HAS_MASK else None
        for i_chunk in range(n_chunks):
            i_bound = tl.max(tl.where(tl.arange(0, LISTS) == i_chunk, b_bounds, MISSING))
            if i_bound > i_kth:
                n_tiles = tl.cdiv(tl.cdiv(n_words - i_chunk, n_chunks), TILE // WORD)
                for i_tile in range(n_tiles):
                    b_key = _tile_keys(
                        b_q, items_ptr, bias_ptr, p_mask, m_q, i_tile, i_chunk, n_items, n_chunks,
                        D, BLOCK_D, TILE, HAS_MASK,
                    )  # fmt: skip
                    b_row = tl.max(b_key, axis=0)[None, :]  # [1, TILE]
                    b_row = tl.where(b_row < i_bound, b_row, MISSING)  # the others are listed
                    if tl.max(b_row) > i_kth:
                        b_best = _insert(b_best, b_row, K, TILE)
                        i_kth = tl.max(tl.where(o_k == k - 1, b_best, MISSING))

    m_found = b_best != MISSING
    i_order = (b_best >> 32).to(tl.int32)
    b_value = (i_order ^ ((i_order >> 31) & LAST_INDEX)).to(tl.float32, bitcast=True)
    o_out = i_q * k + o_k
    tl.store(values_ptr + o_out, tl.where(m_found, b_value, float("-inf")), mask=o_k < k)
    i_item = (b_best & LAST_INDEX) ^ LAST_INDEX
    tl.store(indices_ptr + o_out, tl.where(m_found, i_item, -1), mask=o_k < k)
