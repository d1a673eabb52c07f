"""Exact search by a scan in 8 bits: bounds prove which items the fp32 rescoring must see."""

import numpy as np
from numpy.typing import NDArray

from .codes import Codes
from .exact import FEW_ITEMS, ExactIndex
from .index import CheckedIndex, TopK, best_of, by_mask
from .mask import allow_more

# Rules measured on 68,399 x 64 and 10^6 x 384 items; benchmarks/scale_items.py has the curves.
MANY_ANSWERS = 1 / 16  # more answers than this share of the catalogue are scanned in fp32
_CHUNK = 2**22  # scores at a time: 16 MB


class QuantisedIndex(CheckedIndex):
    """Gives ExactIndex's answers, bits and ties included, and reads a quarter of its bytes.

    The scan scores the rows in 8 bits. Each score is off by at most a margin that is known from
    norms (see `Codes`), so the k-th highest lower bound cuts off all items whose upper bound is
    below it. The rest is scored by ExactIndex, which is also asked for everything where a mask
    passes few items, k is a large part of the catalogue or scores are too close to be told apart.
    """

    def __init__(
        self, candidates: NDArray[np.float32], bias: NDArray[np.float32], threads: int = 1
    ) -> None:
        """Copies the item rows, in fp32 and in 8 bits; arguments and errors of CheckedIndex."""
        super().__init__(candidates, bias, threads)
        self._exact = ExactIndex(candidates, bias, threads)
        self._codes = Codes(candidates, bias, threads)

    @property
    def exact(self) -> CheckedIndex:
        """The index that it gives the answers of."""
        return self._exact

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in both precisions and of their bounds."""
        return self._exact.nbytes + self._codes.nbytes

    def _search(self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None) -> TopK:
        chunk = max(1, _CHUNK // self._codes.width)
        if len(queries) <= chunk:
            return self._search_chunk(queries, k, mask)
        answer = TopK.empty(len(queries), k)
        for start in range(0, len(queries), chunk):
            rows = slice(start, start + chunk)
            found = self._search_chunk(queries[rows], k, None if mask is None else mask[rows])
            answer.scores[rows], answer.items[rows] = found
        return answer

    def _search_chunk(
        self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None
    ) -> TopK:
        is_safe = float(np.abs(queries).max(initial=1.0)) < self._safe_magnitude
        if k > MANY_ANSWERS * self.n_items or not is_safe:  # sums could leave float32
            for_codes = np.zeros(len(queries), np.bool_)
        elif mask is None:
            for_codes = np.ones(len(queries), np.bool_)
        else:
            for_codes = allow_more(mask, FEW_ITEMS * self.n_items)
        if for_codes.all():
            answer, given_up, any_is = self._by_codes(queries, k, mask)
            if not any_is:
                return answer
            for_codes = ~given_up
        else:
            answer, rows = TopK.empty(len(queries), k), np.flatnonzero(for_codes)
            if len(rows):
                words = None if mask is None else mask[rows]
                found, given_up, _ = self._by_codes(queries[rows], k, words)
                answer.scores[rows], answer.items[rows] = found
                for_codes[rows] = ~given_up
        for words, group in by_mask(mask, len(queries)):
            others = [row for row in group if not for_codes[row]]
            if others:
                answer.scores[others], answer.items[others] = self._exact.scan(
                    queries[others], k, words
                )
        return answer

    def _by_codes(
        self, queries: NDArray[np.float32], k: int, words: NDArray[np.int32] | None
    ) -> tuple[TopK, NDArray[np.bool_], bool]:
        """TopK [B, k], the rows [B] that have too many candidates for one, and whether any has."""
        items, given_up, any_is = self._codes.candidates(queries, words, k)
        return best_of(self._exact.scores(queries, items), items, k), given_up, any_is
