"""Joins lists of answers: repeats into the catalogue's list, two lists round robin."""

from typing import NamedTuple

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
        items: [n] int64, a row of TopK.items: best first, padded with -1.
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
    merged = Merged(
        np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32), np.zeros(k, np.bool_)
    )
    _merge(items, scores, repeat_items, repeat_logits, *merged)
    return merged


@compiled
def _merge(
    items: NDArray[np.int64],
    scores: NDArray[np.float32],
    repeat_items: NDArray[np.int64],
    repeat_logits: NDArray[np.float32],
    merged_items: NDArray[np.int64],
    merged_scores: NDArray[np.float32],
    is_repeat: NDArray[np.bool_],
) -> None:
    """Fills the merged list [k] from one that is sorted and one that is not."""
    k = len(merged_items)
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
            merged_items[place], merged_scores[place] = best_items[repeats], best_logits[repeats]
            is_repeat[place] = True
            repeats += 1
        elif is_left:
            merged_items[place], merged_scores[place] = items[found], scores[found]
            found += 1


def round_robin(first: RankedList, second: RankedList, k: int) -> RankedList:
    """Interleaves two lists, `first` starting: each turn takes its list's next item not yet taken.

    An ended list leaves its turns to the other. What each list gives stays in that list's order.

    Returns:
        RankedList of k, padded.
    """
    merged = RankedList(
        np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32), np.full(k, -1, np.int32)
    )
    _interleave(first, second, merged)
    return merged


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
