"""What a user might pick for the search instead, each as it is best used, behind one call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import faiss
import hnswlib
import numpy as np
from numpy.typing import NDArray
from usearch.index import Index as Usearch

from engine.retrieval.mask import mask_words

Floats = NDArray[np.float32]
Ask = Callable[[Floats, int, NDArray[np.int32] | None], NDArray[np.int64]]
LINKS, BUILD_WIDTH = 16, 128


class Contender(NamedTuple):
    """Answers (queries [B, D], k, mask) with items [B, k], best first."""

    ask: Ask
    nbytes: int


def faiss_flat(rows: Floats, bias: Floats) -> Contender:
    """IndexFlatIP over [c ; b], a bitmap selector a query."""
    index = faiss.IndexFlatIP(rows.shape[1] + 1)
    for start in range(0, len(rows), 2**16):
        part = slice(start, start + 2**16)
        index.add(np.column_stack([rows[part], bias[part]]))

    def ask(queries: Floats, k: int, mask: NDArray[np.int32] | None) -> NDArray[np.int64]:
        extended = with_one(queries)
        if mask is None:
            found: NDArray[np.int64] = index.search(extended, k)[1]
            return found
        alike = (mask == mask[0]).all()  # one call for the queries of one request
        groups = [slice(None)] if alike else [slice(row, row + 1) for row in range(len(mask))]
        parts = []
        for rows in groups:
            octets = mask[rows][0].view(np.uint8)
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(octets))
            parts.append(index.search(extended[rows], k, params=parameters)[1])
        return np.concatenate(parts)

    return Contender(ask, rows.nbytes + bias.nbytes)


def numpy_product(rows: Floats, bias: Floats) -> Contender:
    """A matrix product, the k best by argpartition."""

    def ask(queries: Floats, k: int, mask: NDArray[np.int32] | None) -> NDArray[np.int64]:
        scores = queries @ rows.T
        scores += bias
        if mask is not None:
            octets = np.ascontiguousarray(mask).view(np.uint8)
            allowed = np.unpackbits(octets, axis=1, count=len(rows), bitorder="little")
            scores[allowed == 0] = -np.inf
        best = np.argpartition(scores, len(rows) - k, axis=1)[:, len(rows) - k :]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    return Contender(ask, rows.nbytes + bias.nbytes)


def hnswlib_graph(
    rows: Floats, bias: Floats, threads: int
) -> tuple[Contender, Callable[[int], None]]:
    """hnswlib, inner product over [c ; b]; and what sets how widely it searches."""
    index = hnswlib.Index(space="ip", dim=rows.shape[1] + 1)
    index.init_index(max_elements=len(rows), ef_construction=BUILD_WIDTH, M=LINKS)
    index.set_num_threads(threads)
    for start in range(0, len(rows), 2**16):
        part = slice(start, start + 2**16)
        index.add_items(np.column_stack([rows[part], bias[part]]), np.arange(len(rows))[part])

    def ask(queries: Floats, k: int, mask: NDArray[np.int32] | None) -> NDArray[np.int64]:
        if mask is not None:
            raise ValueError("hnswlib: expected no mask: its filter is a Python call an item")
        return index.knn_query(with_one(queries), k=k)[0].astype(np.int64)

    nbytes = len(rows) * (4 * rows.shape[1] + 4 + 4 * 2 * LINKS + 8)
    return Contender(ask, nbytes), index.set_ef


def usearch_graph(
    rows: Floats, bias: Floats, threads: int
) -> tuple[Contender, Callable[[int], None]]:
    """usearch, inner product over [c ; b]; and what sets how widely it searches."""
    index = Usearch(
        ndim=rows.shape[1] + 1,
        metric="ip",
        dtype="f32",
        connectivity=LINKS,
        expansion_add=BUILD_WIDTH,
    )
    for start in range(0, len(rows), 2**16):
        part = slice(start, start + 2**16)
        keys = np.arange(len(rows))[part]
        index.add(keys, np.column_stack([rows[part], bias[part]]), threads=threads)

    def ask(queries: Floats, k: int, mask: NDArray[np.int32] | None) -> NDArray[np.int64]:
        if mask is not None:
            raise ValueError("usearch: expected no mask: it has no filter in Python")
        found: Any = index.search(with_one(queries), k, threads=threads)
        return np.atleast_2d(found.keys).astype(np.int64)

    def widen(width: int) -> None:
        index.expansion_search = width

    return Contender(ask, int(index.memory_usage)), widen


def with_one(queries: Floats) -> Floats:
    """[h ; 1]: the bias is the rows' last dimension."""
    return np.column_stack([queries, np.ones(len(queries), np.float32)])


def packed(allowed: NDArray[np.bool_]) -> NDArray[np.int32]:
    """A user's own way to a bitmap of words, [B, ceil(N / 32)]."""
    octets = np.packbits(allowed, axis=1, bitorder="little")
    words = np.zeros((len(allowed), 4 * mask_words(allowed.shape[1])), np.uint8)
    words[:, : octets.shape[1]] = octets
    return words.view(np.int32)
