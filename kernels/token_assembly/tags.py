"""Tags of items, laid out for both backends."""

from typing import NamedTuple

import torch
from torch import Tensor


class Tags(NamedTuple):
    """The tags of N items twice: as words for the kernels, as lists for the reference.

    Made by `pack_tags` alone, so that both say the same.

    Attributes:
        bits: [N, ceil(V / 32)] int32, bit j of word w is tag 32 w + j.
        ids: [nnz] int64, one item after the other, ascending.
        offsets: [N + 1] int64, where each item's ids start.
    """

    bits: Tensor
    ids: Tensor
    offsets: Tensor


def pack_tags(ids: Tensor, offsets: Tensor, n_tags: int) -> Tags:
    """Tags of lists of tags; a tag that an item lists twice counts once.

    Args:
        ids: [nnz] int tags, one item after the other, in any order.
        offsets: [N + 1] int, where each item's ids start.
        n_tags: V, size of the vocabulary.
    Raises:
        ValueError: offsets that do not span the ids, or a tag outside the vocabulary.
    """
    n_items, n_words = len(offsets) - 1, -(-n_tags // 32)
    counts = offsets[1:] - offsets[:-1]
    if n_items < 0 or int(offsets[0]) or int(offsets[-1]) != len(ids) or (counts < 0).any():
        raise ValueError(
            f"pack_tags: offsets: expected to ascend from 0 to {len(ids)}, got {offsets.tolist()}"
        )
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < n_tags:
        raise ValueError(
            f"pack_tags: ids: expected 0 <= tag < {n_tags}, got {int(ids.min())} to "
            f"{int(ids.max())}"
        )
    item = torch.repeat_interleave(torch.arange(n_items, device=ids.device), counts)
    listed = torch.unique(item * n_tags + ids)  # sorted: by item, then by tag
    item, tag = listed // max(n_tags, 1), listed % max(n_tags, 1)
    # Bytes in memory order are a word's bits in ascending order: all machines here store so.
    packed = torch.zeros(n_items * n_words * 4, dtype=torch.uint8, device=ids.device)
    byte, bit = item * (n_words * 4) + tag // 8, tag % 8
    for b in range(8):
        packed[byte[bit == b]] |= 1 << b
    starts = torch.searchsorted(item, torch.arange(n_items + 1, device=ids.device))
    return Tags(packed.view(torch.int32).view(n_items, n_words), tag, starts)
