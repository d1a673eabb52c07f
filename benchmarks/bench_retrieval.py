"""Exact search of one request: two queries, 400 of 68,000 items masked, beside what else is exact.

pytest benchmarks/bench_retrieval.py --benchmark-only --benchmark-group-by=param:threads
"""

from collections.abc import Callable

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from engine.retrieval.exact import ExactIndex
from engine.retrieval.mask import pack_mask
from engine.retrieval.quantised import QuantisedIndex

N_ITEMS, DIM, N_MASKED, K = 68_000, 64, 400, 10
Search = Callable[[], NDArray[np.int64]]


def searches(threads: int) -> dict[str, Search]:
    """Each answers the same two queries with item indices [2, K]."""
    rng = np.random.default_rng(0)
    rows = np.empty((N_ITEMS, DIM + 1), np.float32)
    rows[:] = rng.standard_normal(rows.shape)
    queries = np.ones((2, DIM + 1), np.float32)
    queries[:, :DIM] = rng.standard_normal((2, DIM))
    masked = rng.choice(N_ITEMS, N_MASKED, replace=False)
    allowed = np.ones(N_ITEMS, np.bool_)
    allowed[masked] = False
    words = pack_mask(np.tile(allowed, (2, 1)))
    catalogue = np.ascontiguousarray(rows[:, :DIM]), rows[:, DIM].copy()
    exact, quantised = ExactIndex(*catalogue, threads), QuantisedIndex(*catalogue, threads)
    flat = faiss.IndexFlatIP(DIM + 1)
    flat.add(rows)
    octets = words[0].view(np.uint8)

    def engine() -> NDArray[np.int64]:
        return exact.search(queries[:, :DIM], K, words).items

    def engine_quantised() -> NDArray[np.int64]:
        return quantised.search(queries[:, :DIM], K, words).items

    def faiss_selector() -> NDArray[np.int64]:
        parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(octets))
        found: NDArray[np.int64] = flat.search(queries, K, params=parameters)[1]
        return found

    def faiss_more() -> NDArray[np.int64]:
        found = flat.search(queries, K + N_MASKED)[1]
        return np.stack([row[allowed[row]][:K] for row in found])

    def numpy_product() -> NDArray[np.int64]:
        scores = queries @ rows.T
        scores[:, masked] = -np.inf
        best = np.argpartition(scores, N_ITEMS - K, axis=1)[:, N_ITEMS - K :]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    return {
        "engine": engine,
        "engine_quantised": engine_quantised,
        "faiss_selector": faiss_selector,
        "faiss_more": faiss_more,
        "numpy_product": numpy_product,
    }


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "way", ["engine", "engine_quantised", "faiss_selector", "faiss_more", "numpy_product"]
)
def test_two_queries_of_one_request(benchmark: BenchmarkFixture, way: str, threads: int) -> None:
    ways = searches(threads)
    np.testing.assert_array_equal(ways[way](), ways["engine"]())
    benchmark.pedantic(ways[way], rounds=100, warmup_rounds=20)
