"""The contract of every index: k best items of each query under a mask, prior included."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.compiled import compiled

from .mask import mask_words

FLOAT_MAX = float(np.finfo(np.float32).max)
_ROWS = 2**16


class TopK(NamedTuple):
    """Scores [B, k] float32, descending, and items [B, k] int64 indices.

    Equal scores are in ascending index; rows with fewer than k items end in -inf and -1.
    """

    scores: NDArray[np.float32]
    items: NDArray[np.int64]

    @classmethod
    def empty(cls, batch: int, k: int) -> "TopK":
        """No item at all: -inf and -1."""
        return cls(np.full((batch, k), -np.inf, np.float32), np.full((batch, k), -1, np.int64))


class Index(Protocol):
    """What a request path needs of an index."""

    n_items: int
    dim: int

    def search(
        self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None = None
    ) -> TopK:
        """As `CheckedIndex.search`."""


class CheckedIndex(ABC):
    """Checks arguments, in the same words for every backend, and leaves the search to it."""

    def __init__(
        self, candidates: NDArray[np.float32], bias: NDArray[np.float32], threads: int = 1
    ) -> None:
        """Takes the item rows.

        Args:
            candidates: [N, D] float32, finite.
            bias: [N] float32, finite.
            threads: threads of one search. FAISS's are set for the whole process: the last index
                wins.
        Raises:
            ValueError: a shape, dtype, value or thread count outside the above.
        """
        name = type(self).__name__
        if candidates.ndim != 2 or candidates.dtype != np.float32:
            raise ValueError(
                f"{name}: candidates: expected [N, D] float32, "
                f"got {list(candidates.shape)} {candidates.dtype}"
            )
        self.n_items, self.dim = candidates.shape
        if bias.shape != (self.n_items,) or bias.dtype != np.float32:
            raise ValueError(
                f"{name}: bias: expected [{self.n_items}] float32, "
                f"got {list(bias.shape)} {bias.dtype}"
            )
        if threads < 1:
            raise ValueError(f"{name}: threads: expected at least 1, got {threads}")
        self._largest_norm = float(np.hypot(norms(candidates), bias).max(initial=0.0))
        if not np.isfinite(self._largest_norm):
            raise ValueError(f"{name}: candidates and bias: expected finite numbers")
        # Queries below it need no norm of their own; NaN is below nothing.
        self._safe_magnitude = FLOAT_MAX / (64 * (self.dim + 1) * max(self._largest_norm, 1.0))

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
            ValueError: a shape, dtype or k outside the above (a GPU takes k up to 500), queries
                that are not finite, or so large that a score could leave float32.
        """
        name = f"{type(self).__name__}.search"
        if queries.ndim != 2 or queries.shape[1] != self.dim or queries.dtype != np.float32:
            raise ValueError(
                f"{name}: queries: expected [B, {self.dim}] float32, "
                f"got {list(queries.shape)} {queries.dtype}"
            )
        if k < 1:
            raise ValueError(f"{name}: k: expected at least 1, got {k}")
        expected = (queries.shape[0], mask_words(self.n_items))
        if mask is not None and (mask.shape != expected or mask.dtype != np.int32):
            raise ValueError(
                f"{name}: mask: expected {list(expected)} int32, "
                f"got {list(mask.shape)} {mask.dtype}"
            )
        if (
            not np.abs(queries).max(initial=0.0) < self._safe_magnitude
            and not (np.hypot(norms(queries), 1.0) * self._largest_norm < FLOAT_MAX).all()
        ):
            raise ValueError(
                f"{name}: queries: expected finite numbers with scores inside float32, "
                f"got a row with the largest magnitude {np.abs(queries).max()}"
            )
        if self.n_items == 0 or queries.shape[0] == 0:
            return TopK.empty(queries.shape[0], k)
        return self._search(queries, k, mask)

    @property
    def exact(self) -> "CheckedIndex":
        """Gives the exact answer over the same rows, of which it makes no copy."""
        return self

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that the index keeps."""

    @abstractmethod
    def _search(self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None) -> TopK:
        """`search` with arguments that were checked, at least one query and one item."""


def best_of(scores: NDArray[np.float32], items: NDArray[np.int64], k: int) -> TopK:
    """TopK [B, k] of scores [B, n] and their items [B, n], ties to the lower item."""
    best = TopK.empty(len(scores), k)
    for row in range(len(scores)):
        highest(scores[row], items[row], best.scores[row], best.items[row])
    return best


@compiled
def highest(
    scores: NDArray[np.float32],
    items: NDArray[np.integer[Any]],
    best_scores: NDArray[np.float32],
    best_items: NDArray[np.int64],
) -> int:
    """Fills best_scores [k] and best_items [k] with the highest of [n] scores, descending.

    Ties go to the lower item. A heap whose root is the worst of the k best so far.

    Returns:
        How many were filled, k or n.
    """
    size = min(len(scores), len(best_scores))
    for place in range(size):
        best_scores[place], best_items[place] = scores[place], items[place]
    for root in range(size // 2 - 1, -1, -1):
        _sift(best_scores, best_items, root, size)
    for place in range(size, len(scores)):
        score, item = scores[place], items[place]
        if score > best_scores[0] or (score == best_scores[0] and item < best_items[0]):
            best_scores[0], best_items[0] = score, item
            _sift(best_scores, best_items, 0, size)
    for end in range(size - 1, 0, -1):  # the worst goes last
        best_scores[0], best_scores[end] = best_scores[end], best_scores[0]
        best_items[0], best_items[end] = best_items[end], best_items[0]
        _sift(best_scores, best_items, 0, end)
    return size


@compiled
def _sift(scores: NDArray[np.float32], items: NDArray[np.int64], root: int, size: int) -> None:
    """Lets a heap's entry sink until both below it are better."""
    score, item = scores[root], items[root]
    while 2 * root + 1 < size:
        child = 2 * root + 1
        other = child + 1
        if other < size and (
            scores[other] < scores[child]
            or (scores[other] == scores[child] and items[other] > items[child])
        ):
            child = other
        if scores[child] > score or (scores[child] == score and items[child] < item):
            break
        scores[root], items[root] = scores[child], items[child]
        root = child
    scores[root], items[root] = score, item


def norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Euclidean norms [n] of rows [n, D], in float64 so that no finite row overflows."""
    found = np.empty(len(rows))
    for part in in_parts(len(rows)):
        wide = rows[part].astype(np.float64)
        np.sqrt(np.einsum("nd,nd->n", wide, wide), out=found[part])
    return found


def in_parts(n: int) -> Iterator[slice]:
    """Slices over n rows, so that what is made of a part is small beside the catalogue."""
    for start in range(0, n, _ROWS):
        yield slice(start, min(start + _ROWS, n))


def by_mask(
    mask: NDArray[np.int32] | None, batch: int
) -> list[tuple[NDArray[np.int32] | None, list[int]]]:
    """Neighbouring rows with equal masks together: the two vectors of a request share one."""
    if mask is None:
        return [(None, list(range(batch)))]
    groups: list[tuple[NDArray[np.int32] | None, list[int]]] = []
    before = None
    for row, words in enumerate(mask):
        octets = words.tobytes()
        if octets == before:
            groups[-1][1].append(row)
        else:
            groups.append((words, [row]))
        before = octets
    return groups
