"""Exact search by a scan in 8 bits: bounds prove which items the fp32 rescoring must see."""

import numpy as np
from numpy.typing import NDArray

from .codes import Codes
from .exact import FEW_ITEMS, ExactIndex
from .index import CheckedIndex, TopK, best_of, by_mask

# Rules measured on 68,399 x 64 and 10^6 x 384 items; benchmarks/scale_items.py has the curves.
MANY_ANSWERS = 1 / 16  # more answers than this share of the catalogue are scanned in fp32
MANY_CANDIDATES = 1 / 4  # more candidates than this share of the catalogue are scanned in fp32
_CHUNK = 2**22  # scores at a time: 16 MB
# By octet of a mask, 0 or -inf for its eight items: a look-up costs the same for every mask, where
# a choice item by item costs ten times more for a mask that no branch predictor can follow.
_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_PENALTIES = np.where(_BITS, 0.0, -np.inf).astype(np.float32)


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
        self._bias = np.full(self._codes.width, -np.inf, np.float32)
        self._bias[: self.n_items] = bias

    @property
    def exact(self) -> CheckedIndex:
        """The index that it gives the answers of."""
        return self._exact

    @property
    def nbytes(self) -> int:
        """Bytes of the rows in both precisions and of their bounds."""
        return self._exact.nbytes + self._codes.nbytes + self._bias.nbytes

    def _search(self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None) -> TopK:
        answer = TopK.empty(len(queries), k)
        chunk = max(1, _CHUNK // self._codes.width)
        for start in range(0, len(queries), chunk):
            rows = slice(start, start + chunk)
            found = self._search_chunk(queries[rows], k, None if mask is None else mask[rows])
            answer.scores[rows], answer.items[rows] = found
        return answer

    def _search_chunk(
        self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None
    ) -> TopK:
        answer = TopK.empty(len(queries), k)
        groups = by_mask(mask, len(queries))
        rows, biases = [], []
        for words, group in groups:
            bias = self._masked_bias(words) if self._is_for_codes(queries[group], k) else None
            if bias is None:
                answer.scores[group], answer.items[group] = self._exact.scan(
                    queries[group], k, words
                )
            else:
                rows += group
                biases.append((len(group), bias))
        if not rows:
            return answer
        scores, coefficients = self._codes.scores(queries[rows])
        start = 0
        for n, bias in biases:
            scores[start : start + n] += bias
            start += n
        found, open_rows = self._rescored(queries[rows], k, scores, coefficients)
        answer.scores[rows], answer.items[rows] = found
        for row in [rows[place] for place in open_rows]:
            one = slice(row, row + 1)
            words = None if mask is None else mask[row]
            answer.scores[one], answer.items[one] = self._exact.scan(queries[one], k, words)
        return answer

    def _is_for_codes(self, queries: NDArray[np.float32], k: int) -> bool:
        """Whether the answers are few and no sum, of up to 64 · 127 · D, leaves float32."""
        few = k <= MANY_ANSWERS * self.n_items
        return few and max(1.0, float(np.abs(queries).max())) < self._safe_magnitude

    def _rescored(
        self,
        queries: NDArray[np.float32],
        k: int,
        scores: NDArray[np.float32],
        coefficients: NDArray[np.float32],
    ) -> tuple[TopK, NDArray[np.int64]]:
        """TopK [B, k] from approximate scores that hold masks and bias.

        Returns:
            The answers, and the rows that have too many candidates for one.
        """
        best, items = self._codes.best_of_blocks(scores, k)
        allowed = scores[np.arange(len(scores))[:, None], items] > -np.inf
        # The k-th best is at least the worst of any k: -inf, so all items, where there are fewer.
        least = self._exact.scores(queries, np.where(allowed, items, -1)).min(axis=1)
        row, item = self._codes.candidates(scores, coefficients, best, least)
        counts = np.bincount(row, minlength=len(queries))
        too_many = counts > MANY_CANDIDATES * self.n_items
        if too_many.any():
            row, item = row[~too_many[row]], item[~too_many[row]]
            counts[too_many] = 0
        candidates = np.full((len(queries), max(k, int(counts.max()))), -1, np.int64)
        candidates[row, np.arange(len(row)) - (counts.cumsum() - counts)[row]] = item
        exact = self._exact.scores(queries, candidates)
        return best_of(exact, candidates, k), np.flatnonzero(too_many)

    def _masked_bias(self, words: NDArray[np.int32] | None) -> NDArray[np.float32] | None:
        """Bias with -inf where the mask forbids; None where it passes few items."""
        if words is None:
            return self._bias
        octets = np.zeros(self._codes.width // 8, np.uint8)
        octets[: 4 * len(words)] = np.ascontiguousarray(words, "<i4").view(np.uint8)
        allowed = np.count_nonzero(np.unpackbits(octets, count=self.n_items, bitorder="little"))
        if allowed <= FEW_ITEMS * self.n_items:
            return None
        bias = _PENALTIES.take(octets, axis=0).reshape(-1)
        bias += self._bias
        return bias
