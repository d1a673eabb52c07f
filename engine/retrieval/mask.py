"""Item masks as bitmaps: 32 items a word, as the exact scan of every backend reads them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.compiled import compiled

WORD_BITS = 32


def mask_words(n_items: int) -> int:
    """Words that hold one bit an item: ceil(n_items / 32)."""
    return -(-n_items // WORD_BITS)


def pack_mask(allowed: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Bit j of word w equals allowed[..., 32 w + j]; the bits past the last item are 0.

    Args:
        allowed: [..., N] bool.
    Returns:
        [..., ceil(N / 32)] int32.
    Raises:
        TypeError: `allowed` is not bool.
    """
    if allowed.dtype != np.bool_:
        raise TypeError(f"pack_mask: allowed: expected dtype bool, got {allowed.dtype}")
    packed = np.packbits(allowed, axis=-1, bitorder="little")
    words = np.zeros((*allowed.shape[:-1], mask_words(allowed.shape[-1]) * 4), np.uint8)
    words[..., : packed.shape[-1]] = packed
    return words.view("<i4").astype(np.int32, copy=False)


def unpack_mask(words: NDArray[np.int32], n_items: int) -> NDArray[np.bool_]:
    """The inverse of pack_mask: [..., ceil(N / 32)] int32 to [..., N] bool."""
    octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=n_items, bitorder="little").view(np.bool_)


@compiled
def allow_more(words: NDArray[np.int32], than: float) -> NDArray[np.bool_]:
    """Whether each row of masks [B, ceil(N / 32)] allows more items than that."""
    more = np.zeros(len(words), np.bool_)
    for row in range(len(words)):
        count = np.uint32(0)
        for word in words[row]:
            bits = np.uint32(word)
            bits -= (bits >> np.uint32(1)) & np.uint32(0x55555555)
            bits = (bits & np.uint32(0x33333333)) + ((bits >> np.uint32(2)) & np.uint32(0x33333333))
            bits = (bits + (bits >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
            count += np.uint32(bits * np.uint32(0x01010101)) >> np.uint32(24)
            if count > than:
                more[row] = True
                break
    return more


@compiled
def without(words: NDArray[np.int32], items: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """A copy of one mask [ceil(N / 32)] that does not allow the items [m] either."""
    masked = words.copy()
    for item in items:
        masked[item >> 5] &= ~(np.int32(1) << np.int32(item & 31))
    return masked


@compiled
def only(words: NDArray[np.int32], items: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Of one mask [ceil(N / 32)] what is among the items [m], which may repeat."""
    kept = np.zeros_like(words)
    for item in items:
        kept[item >> 5] |= words[item >> 5] & (np.int32(1) << np.int32(item & 31))
    return kept


@compiled
def is_allowed(words: NDArray[np.int32], item: int) -> bool:
    """Whether one mask [ceil(N / 32)] allows an item; for other compiled loops."""
    return bool((words[item >> 5] >> (item & 31)) & 1)


@compiled
def are_allowed(words: NDArray[np.int32], items: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    """Whether one mask [ceil(N / 32)] allows each of the items [m]."""
    allowed = np.empty(len(items), np.bool_)
    for place in range(len(items)):
        allowed[place] = is_allowed(words, items[place])
    return allowed
