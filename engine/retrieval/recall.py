"""Recall of the running index, measured on a share of its own requests."""

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .index import CheckedIndex, TopK

_ROUNDING = 1e-6


@dataclass(frozen=True)
class RecallCounts:
    """Sums since the start, for counters: recall is `found` / `wanted`.

    Attributes:
        searches: searches of the index.
        sampled: query rows that were repeated by the exact index.
        wanted: items in their exact answers.
        found: those of them that the index had answered.
    """

    searches: int
    sampled: int
    wanted: int
    found: int


NO_COUNTS = RecallCounts(0, 0, 0, 0)


class SampledRecall:
    """An index whose answers are compared, for a share of the queries, with the exact ones.

    The answer is the index's own, always; a sampled query costs an exact search more. An item whose
    score equals the k-th exact score, up to rounding, counts as found: of equal items any will do.
    """

    def __init__(
        self,
        index: CheckedIndex,
        share: float,
        seed: int = 0,
        counts: RecallCounts = NO_COUNTS,
    ) -> None:
        """`share`: 0 to 1 of the queries, ValueError for another. `counts`: to go on from."""
        if not 0 <= share <= 1:
            raise ValueError(f"SampledRecall: share: expected 0 to 1, got {share}")
        self.n_items, self.dim = index.n_items, index.dim
        self.counts = counts
        self._index, self._exact, self._share = index, index.exact, share
        self._random = random.Random(seed)

    def search(
        self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None = None
    ) -> TopK:
        """The index's answer, see `CheckedIndex.search`."""
        answer = self._index.search(queries, k, mask)
        rows = [row for row in range(len(queries)) if self._random.random() < self._share]
        wanted = found = 0
        if rows:
            truth = self._exact.search(queries[rows], k, None if mask is None else mask[rows])
            wanted = int(np.count_nonzero(truth.items >= 0))
            found = _found(TopK(answer.scores[rows], answer.items[rows]), truth)
        counts = self.counts
        self.counts = RecallCounts(
            counts.searches + 1,
            counts.sampled + len(rows),
            counts.wanted + wanted,
            counts.found + found,
        )
        return answer


def _found(answer: TopK, truth: TopK) -> int:
    """Items of `truth` that `answer` holds, or an equal of the last of them."""
    found = 0
    for items, scores, exact, best in zip(
        answer.items, answer.scores, truth.items, truth.scores, strict=True
    ):
        n_exact = int(np.count_nonzero(exact >= 0))
        if n_exact:
            equal = np.isclose(scores, best[n_exact - 1], rtol=_ROUNDING, atol=_ROUNDING)
            held = (np.isin(items, exact) | equal) & (items >= 0)
            found += min(int(np.count_nonzero(held)), n_exact)
    return found
