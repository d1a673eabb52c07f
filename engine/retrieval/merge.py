"""Joins lists of answers: repeats into the catalogue's list, two lists round robin."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.compiled import compiled

from .index import highest


class RankedList(NamedTuple):
    """One list of answers, best first; places without an item hold -1, -inf and source -1.

    items [n] int64 indices, scores [n] float32, source [n] int32.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    source: NDArray[np.int32]


def merge_repeats(
    items: NDArray[np.int64],
    scores: NDArray[np.float32],
    repeat_items: NDArray[np.integer[Any]],
    repeat_logits: NDArray[np.float32],
    k: int,
    source: int,
    repeat_source: int,
) -> RankedList:
    """The k highest scores of both lists, ties to the lower index.

    Args:
        items: [n] int64, a row of TopK.items: best first, padded with -1.
        scores: [n] float32, the same row of TopK.scores.
        repeat_items: [m], allowed to be answered and masked out of the catalogue search.
        repeat_logits: [m] float32, not NaN.
        k: at least 1.
        source, repeat_source: of the items of either list.
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
    merged = _empty(k)
    _merge(items, scores, repeat_items, repeat_logits, source, repeat_source, merged)
    return merged


@compiled
def _merge(
    items: NDArray[np.int64],
    scores: NDArray[np.float32],
    repeat_items: NDArray[np.integer[Any]],
    repeat_logits: NDArray[np.float32],
    source: int,
    repeat_source: int,
    merged: RankedList,
) -> None:
    """Fills the merged list [k] from one that is sorted and one that is not."""
    k = len(merged.items)
    best_items, best_logits = np.empty(k, np.int64), np.empty(k, np.float32)
    n_repeats = highest(repeat_logits, repeat_items, best_logits, best_items)
    found = repeats = 0
    for place in range(k):
        is_left = found < len(items) and items[found] >= 0
        if repeats < n_repeats and (
            not is_left
            or best_logits[repeats] > scores[found]
            or (best_logits[repeats] == scores[found] and best_items[repeats] < items[found])
        ):
            merged.items[place], merged.scores[place] = best_items[repeats], best_logits[repeats]
            merged.source[place] = repeat_source
            repeats += 1
        elif is_left:
            merged.items[place], merged.scores[place] = items[found], scores[found]
            merged.source[place] = source
            found += 1


def round_robin(first: RankedList, second: RankedList, k: int) -> RankedList:
    """Interleaves two lists, `first` starting: each turn takes its list's next item not yet taken.

    An ended list leaves its turns to the other. What each list gives stays in that list's order.

    Returns:
        RankedList of k, padded.
    """
    merged = _empty(k)
    _interleave(first, second, merged)
    return merged


def _empty(k: int) -> RankedList:
    """k places without an item."""
    return RankedList(
        np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32), np.full(k, -1, np.int32)
    )


@compiled
def _interleave(first: RankedList, second: RankedList, merged: RankedList) -> None:
    """Fills `merged` by turns."""
    taken = 0
    places = [0, 0]
    ended = 0
    while taken < len(merged.items) and ended < 2:
        for turn in range(2):
            side = first if turn == 0 else second
            place = places[turn]
            while (
                place < len(side.items)
                and side.items[place] >= 0
                and side.items[place] in merged.items[:taken]
            ):
                place += 1
            if place == len(side.items) or side.items[place] < 0:
                ended += 1
                continue
            ended = 0
            if taken < len(merged.items):
                merged.items[taken] = side.items[place]
                merged.scores[taken] = side.scores[place]
                merged.source[taken] = side.source[place]
                taken += 1
            places[turn] = place + 1
