"""Host side of score_topk's two kernels: shape classes, intermediate lists, grids."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kernels.launch import launch

from . import _triton

MAX_K = 500
MAX_DIM = 256  # a query block and two tiles of items fit every card's shared memory
MAX_ITEMS = 1 << 30  # so that an index plus one round of tiles fits int32
TILE = 64  # items that a block scores at once; also the columns that keep their best apart
WORD_BITS = 32
_WIDE_TILE_BYTES = 1 << 15  # from here on one buffer of items, not two, stays in shared memory


@dataclass(frozen=True)
class Config:
    """One shape class.

    Attributes:
        block_q: queries a block.
        chunks: parts of the catalogue, at most: blocks for each block of queries.
        keep: places of a chunk's list, the last of which bounds the rest.
        levels: items that each column of a tile keeps, 2 or 4.
        num_warps: of the scan.
    """

    block_q: int
    chunks: int
    keep: int
    levels: int
    num_warps: int


# By the most queries and the largest k. The blocks of a class fill 170 multiprocessors, its lists
# stay below 6 % of the items' bytes; no card has a say in it. README.md: "Configurations".
CONFIGS = (
    (16, 128, Config(16, 264, 8, 2, 4)),
    (16, MAX_K, Config(16, 176, 16, 4, 4)),
    (32, 16, Config(32, 176, 8, 2, 8)),
    (32, 128, Config(32, 176, 8, 2, 8)),
    (32, MAX_K, Config(32, 176, 16, 4, 16)),
    (64, 16, Config(32, 88, 32, 2, 8)),
    (64, MAX_K, Config(32, 88, 32, 4, 16)),
    (None, 16, Config(32, 64, 32, 2, 8)),
    (None, 128, Config(32, 176, 8, 2, 8)),
    (None, MAX_K, Config(32, 88, 32, 4, 16)),
)


def choose_config(n_queries: int, n_items: int, k: int) -> Config:
    """The shape class of a call, with no more chunks than there are words of items."""
    config = next(
        config
        for most_queries, most_k, config in CONFIGS
        if (most_queries is None or n_queries <= most_queries) and k <= most_k
    )
    chunks = min(config.chunks, -(-n_items // WORD_BITS))
    # A small catalogue has few chunks, and more answers in each.
    keep = config.keep if 4 * k <= config.keep * chunks else TILE
    return replace(config, chunks=chunks, keep=keep)


def score_topk(
    queries: Tensor,
    items: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    k: int,
    config: Config | None = None,
) -> tuple[Tensor, Tensor]:
    """Values [B, k] fp32 and indices [B, k] int64 by the kernels; arguments as in `api.py`.

    `config` is another shape class than the call's own, to share one with larger batches.
    """
    n_queries, d = queries.shape
    n_items = items.shape[0]
    values = torch.empty((n_queries, k), dtype=torch.float32, device=queries.device)
    indices = torch.empty((n_queries, k), dtype=torch.int64, device=queries.device)
    if n_items == 0:
        return values.fill_(float("-inf")), indices.fill_(-1)
    config = config or choose_config(n_queries, n_items, k)
    n_words = -(-n_items // WORD_BITS)
    n_chunks, keep = config.chunks, config.keep
    lists = torch.empty((n_queries, n_chunks, keep), dtype=torch.int64, device=queries.device)
    inputs = {"queries_ptr": queries, "items_ptr": items, "bias_ptr": bias, "mask_ptr": mask}
    sizes = {"n_items": n_items, "n_words": n_words, "n_chunks": n_chunks}
    block_d = max(_power_of_two(d), 16)  # the least depth of a tensor core's product
    constants = {
        "D": d,
        "BLOCK_D": block_d,
        "TILE": TILE,
        "KEEP": keep,
        "HAS_MASK": mask is not None,
    }
    wide = TILE * block_d * items.element_size() >= _WIDE_TILE_BYTES
    launch(
        _triton.scan,
        (-(-n_queries // config.block_q), n_chunks),
        {**inputs, "n_queries": n_queries, **sizes, "lists_ptr": lists},
        {**constants, "BLOCK_Q": config.block_q, "LEVELS": config.levels},
        num_warps=config.num_warps,
        num_stages=2 if wide else 3,
    )
    lists_k = max(_power_of_two(k), TILE)
    n_lists = max(_power_of_two(n_chunks), lists_k // keep)
    # Eight places a thread; sixteen where 512 answers leave no room for more threads.
    num_warps = 16 if n_lists * keep > 2048 and lists_k < 512 else 8
    launch(
        _triton.merge,
        (n_queries,),
        {
            **inputs,
            "lists_ptr": lists,
            **sizes,
            "k": k,
            "values_ptr": values,
            "indices_ptr": indices,
        },
        {**constants, "BLOCK_Q": 2 * num_warps, "LISTS": n_lists, "K": lists_k},
        num_warps=num_warps,
        num_stages=2,
    )
    return values, indices


def _power_of_two(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << (n - 1).bit_length()
