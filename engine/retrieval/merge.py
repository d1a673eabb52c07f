"""Joins lists of answers: repeats into the catalogue's list, two lists round robin."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.compiled import compiled

from .index import TopK, highest
from .mask import is_allowed


class RankedList(NamedTuple):
    """One list of answers, best first; places without an item hold -1, -inf and source -1.

    items [n] int64 indices, scores [n] float32, source [n] int32.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]
    source: NDArray[np.int32]

    @classmethod
    def empty(cls, n: int) -> "RankedList":
        """n places without an item."""
        return cls(
            np.full(n, -1, np.int64), np.full(n, -np.inf, np.float32), np.full(n, -1, np.int32)
        )


class Bought(NamedTuple):
    """Items [m] that the user bought and that were masked out of the search, logits [2, m] of them
    for either vector, and the mask [ceil(N / 32)] of those that may be answered."""

    items: NDArray[np.int32]
    logits: NDArray[np.float32]
    allowed: NDArray[np.int32]


def ranked(found: TopK, heads: tuple[int, ...], bought: Bought, k: int, repeat: int) -> RankedList:
    """The list of one request.

    Each vector's list has the k highest scores of the search and of the bought items, ties to the
    lower index. Two lists take turns, the first starting: each gives its next item that is not yet
    taken, an ended one leaves its turns to the other, and what each gives stays in its order.

    Args:
        found: [heads, at least k] of the search, one row a vector.
        heads: the vectors, rows of the logits; each is the source of the items that it finds.
        bought: what the search was not to find.
        k: at least 1.
        repeat: source of the bought items.
    Raises:
        ValueError: a logit is NaN.
    """
    if np.isnan(bought.logits).any():
        raise ValueError("ranked: logits: expected numbers, got NaN")
    answer = RankedList.empty(k)
    lists = answer if len(heads) == 1 else RankedList.empty(k * len(heads))
    for row, head in enumerate(heads):
        part = slice(row * k, (row + 1) * k)
        _merge(
            found.items[row], found.scores[row], bought.items, bought.logits[head], bought.allowed,
            head, repeat, lists.items[part], lists.scores[part], lists.source[part],
        )  # fmt: skip
    if len(heads) > 1:
        _interleave(*lists, *answer)
    return answer


@compiled
def _merge(
    items: NDArray[np.int64],
    scores: NDArray[np.float32],
    bought: NDArray[np.int32],
    logits: NDArray[np.float32],
    allowed: NDArray[np.int32],
    source: int,
    repeat: int,
    merged_items: NDArray[np.int64],
    merged_scores: NDArray[np.float32],
    merged_source: NDArray[np.int32],
) -> None:
    """Fills one vector's list [k] from the search's, sorted, and the bought items, unsorted."""
    k, m = len(merged_items), 0
    kept_items, kept_logits = np.empty(len(bought), np.int64), np.empty(len(bought), np.float32)
    for place in range(len(bought)):
        item = bought[place]
        if is_allowed(allowed, item):
            kept_items[m], kept_logits[m] = item, logits[place]
            m += 1
    best_items, best_logits = np.empty(k, np.int64), np.empty(k, np.float32)
    n_repeats = highest(kept_logits[:m], kept_items[:m], best_logits, best_items)
    found = repeats = 0
    for place in range(k):
        is_left = found < len(items) and items[found] >= 0
        if repeats < n_repeats and (
            not is_left
            or best_logits[repeats] > scores[found]
            or (best_logits[repeats] == scores[found] and best_items[repeats] < items[found])
        ):
            merged_items[place], merged_scores[place] = best_items[repeats], best_logits[repeats]
            merged_source[place] = repeat
            repeats += 1
        elif is_left:
            merged_items[place], merged_scores[place] = items[found], scores[found]
            merged_source[place] = source
            found += 1


@compiled
def _interleave(
    items: NDArray[np.int64],
    scores: NDArray[np.float32],
    source: NDArray[np.int32],
    taken_items: NDArray[np.int64],
    taken_scores: NDArray[np.float32],
    taken_source: NDArray[np.int32],
) -> None:
    """Fills one list [k] by turns from two, [k] each, one behind the other."""
    k, taken, ended = len(taken_items), 0, 0
    places = np.array([0, k])
    ends = np.array([k, 2 * k])
    turn = 0
    while taken < k and ended < 2:
        place = places[turn]
        while place < ends[turn] and items[place] >= 0 and items[place] in taken_items[:taken]:
            place += 1
        if place < ends[turn] and items[place] >= 0:
            taken_items[taken], taken_scores[taken] = items[place], scores[place]
            taken_source[taken] = source[place]
            taken, place, ended = taken + 1, place + 1, 0
        else:
            ended += 1
        places[turn] = place
        turn = 1 - turn
