"""Exact maximum inner product search on the CPU: a FAISS scan under a bitmap, prior included."""

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from .index import CheckedIndex, TopK, best_of, by_mask, in_parts
from .mask import pack_mask, unpack_mask

FEW_ITEMS = 1 / 16  # a mask that passes at most this share has its items scored one by one
_WIDEN = 16


class ExactIndex(CheckedIndex):
    """Scores every item with h·c + b; the bias is one more dimension: [c ; b]·[h ; 1].

    Exactness: fp32 sums in an order that depends on D alone, so a row's bits are the same in every
    batch; a tie across the k-th place goes to the lower index.
    """

    def __init__(
        self, candidates: NDArray[np.float32], bias: NDArray[np.float32], threads: int = 1
    ) -> None:
        """Copies the item rows; arguments and errors of CheckedIndex."""
        super().__init__(candidates, bias, threads)
        self._index: Any = faiss.IndexFlatIP(self.dim + 1)
        for part in in_parts(self.n_items):
            self._index.add(np.column_stack([candidates[part], bias[part]]))
        self._all = pack_mask(np.ones(self.n_items, np.bool_))
        faiss.omp_set_num_threads(threads)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return self.n_items * (self.dim + 1) * 4

    def scan(self, queries: NDArray[np.float32], k: int, words: NDArray[np.int32] | None) -> TopK:
        """TopK of [B, k] for checked queries [B, D] that share one mask [ceil(N / 32)]."""
        items = None if words is None else self._few(words)
        if items is None:
            found = self._scan(_extended(queries), k, self._all if words is None else words)
        else:
            each = items[None].repeat(len(queries), axis=0)
            found = best_of(self.scores(queries, each), each, k)
        answer = TopK.empty(len(queries), k)
        width = found.items.shape[1]
        answer.scores[:, :width], answer.items[:, :width] = found
        return answer

    def _few(self, words: NDArray[np.int32]) -> NDArray[np.int64] | None:
        """The allowed items, None where a scan that asks each item for its bit is faster."""
        allowed = unpack_mask(words, self.n_items)
        few = np.count_nonzero(allowed) <= FEW_ITEMS * self.n_items
        return np.flatnonzero(allowed) if few else None

    def scores(self, queries: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Scores [B, n], the bits of `scan`, of items [B, n] of each row; -inf where -1."""
        extended, items = _extended(queries), np.ascontiguousarray(items)
        scores = np.empty(items.shape, np.float32)
        if not scores.size:
            return scores  # FAISS refuses to score nothing
        self._index.compute_distance_subset(
            len(queries),
            faiss.swig_ptr(extended),
            items.shape[1],
            faiss.swig_ptr(scores),
            faiss.swig_ptr(items),
        )
        scores[items < 0] = -np.inf
        return scores

    def _search(self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None) -> TopK:
        answer = TopK.empty(len(queries), k)
        for words, rows in by_mask(mask, len(queries)):
            answer.scores[rows], answer.items[rows] = self.scan(queries[rows], k, words)
        return answer

    def _scan(self, queries: NDArray[np.float32], k: int, words: NDArray[np.int32]) -> TopK:
        """TopK of [B, min(k, N)] for queries [B, D + 1] that share one mask."""
        width = min(k, self.n_items)
        asked = min(k + 1, self.n_items)
        found = self._nearest(queries, asked, words)
        # FAISS keeps any of the items that tie for the last place: ask on until the tie has an end.
        while asked < self.n_items and _cut_inside_tie(found, k):
            asked = min(asked * _WIDEN, self.n_items)
            found = self._nearest(queries, asked, words)
        order = np.lexsort((found.items, -found.scores), axis=-1)[:, :width]
        return TopK(
            np.take_along_axis(found.scores, order, axis=1),
            np.take_along_axis(found.items, order, axis=1),
        )

    def _nearest(self, queries: NDArray[np.float32], k: int, words: NDArray[np.int32]) -> TopK:
        """FAISS's own answer: ties in any order, and any of those that tie for the last place."""
        # Without a selector FAISS goes through BLAS from some batch size on, and the bits change.
        octets = np.ascontiguousarray(words, "<i4").view(np.uint8)
        selector = faiss.IDSelectorBitmap(octets.size, faiss.swig_ptr(octets))
        parameters = faiss.SearchParameters()
        parameters.sel = selector
        scores, items = self._index.search(queries, k, params=parameters)
        scores[items < 0] = -np.inf
        return TopK(scores, items)


def _extended(queries: NDArray[np.float32]) -> NDArray[np.float32]:
    """[h ; 1]: the bias is the rows' last dimension."""
    extended = np.ones((len(queries), queries.shape[1] + 1), np.float32)
    extended[:, :-1] = queries
    return extended


def _cut_inside_tie(found: TopK, k: int) -> bool:
    """Whether the last of more than k answers of some row still has the k-th score."""
    return bool(((found.scores[:, -1] == found.scores[:, k - 1]) & (found.items[:, -1] >= 0)).any())
