"""Joins lists of answers: repeats into the catalogue's list, two lists round robin."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class RankedList(NamedTuple):
    """One list of answers, best first; places without an item hold -1, -inf and source -1.

    items [n] int64 indices, scores [n] float32, source [n] int32.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    source: NDArray[np.int32]


class Merged(NamedTuple):
    """The k best of the catalogue and the repeats: items [k] int64, scores [k] float32,
    is_repeat [k] bool; padded with -1, -inf and False."""

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    is_repeat: NDArray[np.bool_]


def merge_repeats(
    items: NDArray[np.int64],
    scores: NDArray[np.float32],
    repeat_items: NDArray[np.int64],
    repeat_logits: NDArray[np.float32],
    k: int,
) -> Merged:
    """The k highest scores of both lists, ties to the lower index.

    Args:
        items: [n] int64, a row of TopK.items: padded with -1.
        scores: [n] float32, the same row of TopK.scores.
        repeat_items: [m] int64, allowed to be answered and masked out of the catalogue search.
        repeat_logits: [m] float32, not NaN.
        k: at least 1.
    Raises:
        ValueError: repeat_items and repeat_logits differ in length, or a logit is NaN.
    """
    if repeat_items.shape != repeat_logits.shape:
        raise ValueError(
            f"merge_repeats: repeat_logits: expected {list(repeat_items.shape)} as repeat_items, "
            f"got {list(repeat_logits.shape)}"
        )
    if np.isnan(repeat_logits).any():
        raise ValueError("merge_repeats: repeat_logits: expected numbers, got NaN")
    found = int(np.count_nonzero(items >= 0))
    both_items = np.concatenate([items[:found], repeat_items])
    both_scores = np.concatenate([scores[:found], repeat_logits])
    order = np.lexsort((both_items, -both_scores))[:k]
    merged = Merged(
        np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32), np.zeros(k, np.bool_)
    )
    merged.items[: order.size] = both_items[order]
    merged.scores[: order.size] = both_scores[order]
    merged.is_repeat[: order.size] = order >= found
    return merged


def round_robin(first: RankedList, second: RankedList, k: int) -> RankedList:
    """Interleaves two lists, `first` starting: each turn takes its list's next item not yet taken.

    An ended list leaves its turns to the other. What each list gives stays in that list's order.

    Returns:
        RankedList of k, padded.
    """
    taken: dict[int, tuple[float, int]] = {}
    turns = [_entries(first), _entries(second)]
    positions = [0, 0]
    side = 0
    while len(taken) < k:
        while positions[side] < len(turns[side]) and turns[side][positions[side]][0] in taken:
            positions[side] += 1
        if positions[side] < len(turns[side]):
            item, score, source = turns[side][positions[side]]
            taken[item] = (score, source)
        elif positions[1 - side] >= len(turns[1 - side]):
            break
        side = 1 - side
    merged = RankedList(
        np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32), np.full(k, -1, np.int32)
    )
    for place, (item, (score, source)) in enumerate(taken.items()):
        merged.items[place], merged.scores[place], merged.source[place] = item, score, source
    return merged


def _entries(ranked: RankedList) -> list[tuple[int, float, int]]:
    """The places that hold an item."""
    rows = zip(ranked.items.tolist(), ranked.scores.tolist(), ranked.source.tolist(), strict=True)
    return [row for row in rows if row[0] >= 0]
