"""Exact maximum inner product search on the CPU: a FAISS scan under a bitmap, prior included."""

from typing import NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from .mask import mask_words, pack_mask

_FLOAT_MAX = float(np.finfo(np.float32).max)
_WIDEN = 16


class TopK(NamedTuple):
    """Scores [B, k] float32, descending, and items [B, k] int64 indices.

    Equal scores are in ascending index; rows with fewer than k items end in -inf and -1.
    """

    scores: NDArray[np.float32]
    items: NDArray[np.int64]


class ExactIndex:
    """Scores every item with h·c + b; the bias is one more dimension: [c ; b]·[h ; 1].

    The plain flat index with a bitmap selector is the fastest exact way that was measured: 68,000 x
    64 items, k = 10, 400 items masked, both queries of a request: 1.3-1.4 ms with one thread and
    0.7-0.8 with two (about 0.5 ms more where the rows have left the cache). Asking for 400 more
    without a selector and dropping them took 1.4-1.5, a numpy product with argpartition 2.9 and
    more; blocks of items that fit the cache, huge pages and padded rows changed nothing. Command:
    `OMP_NUM_THREADS=1 pytest benchmarks/bench_retrieval.py --benchmark-only`, two shared cores.
    """

    def __init__(
        self, candidates: NDArray[np.float32], bias: NDArray[np.float32], threads: int = 1
    ) -> None:
        """Copies the item rows.

        Args:
            candidates: [N, D] float32, finite.
            bias: [N] float32, finite.
            threads: FAISS's threads. They are set for the whole process: the last index wins.
        Raises:
            ValueError: a shape, dtype, value or thread count outside the above.
        """
        if candidates.ndim != 2 or candidates.dtype != np.float32:
            raise ValueError(
                "ExactIndex: candidates: expected [N, D] float32, "
                f"got {list(candidates.shape)} {candidates.dtype}"
            )
        self.n_items, self.dim = candidates.shape
        if bias.shape != (self.n_items,) or bias.dtype != np.float32:
            raise ValueError(
                f"ExactIndex: bias: expected [{self.n_items}] float32, "
                f"got {list(bias.shape)} {bias.dtype}"
            )
        if threads < 1:
            raise ValueError(f"ExactIndex: threads: expected at least 1, got {threads}")
        rows = np.column_stack([candidates, bias])
        if not np.isfinite(rows).all():
            raise ValueError("ExactIndex: candidates and bias: expected finite numbers")
        self._index = faiss.IndexFlatIP(self.dim + 1)
        self._index.add(rows)
        self._largest_norm = _norms(rows).max(initial=0.0)
        self._all = pack_mask(np.ones(self.n_items, np.bool_))
        faiss.omp_set_num_threads(threads)

    def search(
        self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None = None
    ) -> TopK:
        """Equals a stable descending sort of queries @ candidates.T + bias over the allowed items.

        Args:
            queries: [B, D] float32, finite.
            k: at least 1, may exceed N.
            mask: [B, ceil(N / 32)] int32 words; item 32 w + j of row r may be answered where bit j
                of mask[r, w] is set. None allows every item.
        Returns:
            TopK of [B, k].
        Raises:
            ValueError: a shape, dtype or k outside the above, queries that are not finite, or so
                large that a score could leave float32.
        Exactness: fp32 sums in an order that depends on D alone, so a row's bits are the same in
            every batch; a tie across the k-th place goes to the lower index.
        """
        self._check(queries, k, mask)
        batch = queries.shape[0]
        extended = np.ones((batch, self.dim + 1), np.float32)
        extended[:, :-1] = queries
        if not (_norms(extended) * self._largest_norm < _FLOAT_MAX).all():
            raise ValueError(
                "ExactIndex.search: queries: expected finite numbers with scores inside float32, "
                f"got a row with the largest magnitude {np.abs(queries).max()}"
            )
        scores = np.full((batch, k), -np.inf, np.float32)
        items = np.full((batch, k), -1, np.int64)
        if self.n_items == 0 or batch == 0:
            return TopK(scores, items)
        for words, rows in self._groups(mask, batch):
            found = self._scan(extended[rows], k, words)
            width = found.items.shape[1]
            scores[rows, :width], items[rows, :width] = found.scores, found.items
        return TopK(scores, items)

    def _check(self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None) -> None:
        if queries.ndim != 2 or queries.shape[1] != self.dim or queries.dtype != np.float32:
            raise ValueError(
                f"ExactIndex.search: queries: expected [B, {self.dim}] float32, "
                f"got {list(queries.shape)} {queries.dtype}"
            )
        if k < 1:
            raise ValueError(f"ExactIndex.search: k: expected at least 1, got {k}")
        expected = (queries.shape[0], mask_words(self.n_items))
        if mask is not None and (mask.shape != expected or mask.dtype != np.int32):
            raise ValueError(
                f"ExactIndex.search: mask: expected {list(expected)} int32, "
                f"got {list(mask.shape)} {mask.dtype}"
            )

    def _groups(
        self, mask: NDArray[np.int32] | None, batch: int
    ) -> list[tuple[NDArray[np.int32], list[int]]]:
        """Rows with equal masks together: the two vectors of a request are then one FAISS call."""
        if mask is None:
            return [(self._all, list(range(batch)))]
        groups: dict[bytes, list[int]] = {}
        for row, words in enumerate(mask):
            groups.setdefault(words.tobytes(), []).append(row)
        return [(mask[rows[0]], rows) for rows in groups.values()]

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


def _cut_inside_tie(found: TopK, k: int) -> bool:
    """Whether the last of more than k answers of some row still has the k-th score."""
    return bool(((found.scores[:, -1] == found.scores[:, k - 1]) & (found.items[:, -1] >= 0)).any())


def _norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean norms [n] of rows [n, D], in float64 so that no finite row overflows."""
    norms: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    return norms
