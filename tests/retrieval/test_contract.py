"""What every index promises. Those in EXACT also agree on ties, APPROXIMATE promise a recall."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.retrieval.approximate import ApproximateIndex
from engine.retrieval.exact import ExactIndex
from engine.retrieval.gpu import GpuIndex
from engine.retrieval.index import CheckedIndex, TopK
from engine.retrieval.mask import pack_mask
from engine.retrieval.quantised import QuantisedIndex

Build = Callable[..., CheckedIndex]
EXACT: dict[str, Build] = {
    "exact": ExactIndex,
    "quantised": QuantisedIndex,
    "reference": partial(GpuIndex, device="cpu"),
}
APPROXIMATE: dict[str, Build] = {
    "ivf": partial(ApproximateIndex, recall=0.99),
    "hnsw": partial(ApproximateIndex, kind="hnsw", recall=0.99),
}
GPU = pytest.param(
    GpuIndex,
    id="gpu",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ],
)


def over(builds: dict[str, Build]) -> pytest.MarkDecorator:
    named = [pytest.param(build, id=name) for name, build in builds.items()]
    return pytest.mark.parametrize("build", [*named, GPU])


every_exact, every_index = over(EXACT), over(EXACT | APPROXIMATE)
on_cpu = pytest.mark.parametrize("build", [ExactIndex, QuantisedIndex])


def brute_force(
    queries: NDArray[np.float32],
    candidates: NDArray[np.float32],
    bias: NDArray[np.float32],
    allowed: NDArray[np.bool_],
    k: int,
) -> TopK:
    """The rule in float64, item by item: score descending, then the lower index."""
    logits = queries.astype(np.float64) @ candidates.astype(np.float64).T + bias
    scores = np.full((len(queries), k), -np.inf, np.float32)
    items = np.full((len(queries), k), -1, np.int64)
    for row, logit in enumerate(logits):
        best = sorted(np.flatnonzero(allowed[row]).tolist(), key=lambda item: (-logit[item], item))
        for place, item in enumerate(best[:k]):
            scores[row, place], items[row, place] = logit[item], item
    return TopK(scores, items)


def small_integers(rng: np.random.Generator, *shape: int, top: int) -> NDArray[np.float32]:
    """Their products sum exactly in float32, so answers must agree to the index, ties included."""
    return rng.integers(-top, top, shape, endpoint=True).astype(np.float32)


def assert_equal(found: TopK, expected: TopK) -> None:
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert found.scores.dtype == np.float32
    assert found.items.dtype == np.int64


@every_exact
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.sampled_from([1, 2, 17, 31, 32, 33, 64, 101, 400]),
    dim=st.sampled_from([1, 2, 7, 16]),
    batch=st.sampled_from([0, 1, 2, 5]),
    k=st.sampled_from([1, 2, 10, 99, 100, 101, 500]),
    top=st.sampled_from([0, 1, 3]),
    share=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
)
@settings(deadline=None, max_examples=200)
def test_search_equals_brute_force(
    build: Build, seed: int, n_items: int, dim: int, batch: int, k: int, top: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    candidates = small_integers(rng, n_items, dim, top=top)
    bias = small_integers(rng, n_items, top=top)
    queries = small_integers(rng, batch, dim, top=top)
    allowed = rng.random((batch, n_items)) < share
    found = build(candidates, bias).search(queries, k, pack_mask(allowed))
    assert_equal(found, brute_force(queries, candidates, bias, allowed, k))


@every_index
def test_without_a_mask_every_item_may_be_answered(build: Build) -> None:
    rng = np.random.default_rng(1)
    candidates, bias = small_integers(rng, 70, 3, top=2), small_integers(rng, 70, top=2)
    queries = small_integers(rng, 4, 3, top=2)
    found = build(candidates, bias).search(queries, 70)
    assert_equal(found, brute_force(queries, candidates, bias, np.ones((4, 70), bool), 70))


@every_exact
@pytest.mark.parametrize("k", [1, 10, 100, 500])
def test_a_tie_of_thousands_goes_to_the_lowest_indices(build: Build, k: int) -> None:
    index = build(np.zeros((5_000, 4), np.float32), np.zeros(5_000, np.float32))
    allowed = np.arange(5_000) % 3 != 0
    found = index.search(np.ones((1, 4), np.float32), k, pack_mask(allowed)[None])
    expected = np.flatnonzero(allowed)[:k]
    np.testing.assert_array_equal(found.items[0, : expected.size], expected)
    assert (found.items[0, expected.size :] == -1).all()


@on_cpu
def test_a_tie_may_fill_more_answers_than_a_gpu_gives(build: Build) -> None:
    index = build(np.zeros((5_000, 4), np.float32), np.zeros(5_000, np.float32))
    found = index.search(np.ones((1, 4), np.float32), 4_000)
    np.testing.assert_array_equal(found.items[0], np.arange(4_000))


def test_a_gpu_refuses_more_answers_than_its_kernel_keeps() -> None:
    with pytest.raises(ValueError, match="k: expected 1 to 500, got 501"):
        index_of(EXACT["reference"]).search(np.ones((1, 3), np.float32), 501)


@every_index
def test_an_empty_catalogue_answers_nothing(build: Build) -> None:
    index = build(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    found = index.search(np.ones((2, 4), np.float32), 3)
    assert (found.items == -1).all()
    assert np.isneginf(found.scores).all()


@every_index
def test_bits_past_the_last_item_are_ignored(build: Build) -> None:
    index = build(np.ones((33, 2), np.float32), np.zeros(33, np.float32))
    found = index.search(np.ones((1, 2), np.float32), 40, np.full((1, 2), -1, np.int32))
    np.testing.assert_array_equal(found.items[0], [*range(33), *[-1] * 7])


@over({"exact": ExactIndex, "quantised": QuantisedIndex})
def test_a_row_has_the_same_bits_in_every_batch(build: Build) -> None:
    rng = np.random.default_rng(2)
    index = build(
        rng.standard_normal((3_000, 64), np.float32), rng.standard_normal(3_000, np.float32)
    )
    queries = rng.standard_normal((300, 64), np.float32)
    mask = pack_mask(rng.random((300, 3_000)) < 0.5)
    mask[100:] = mask[100]
    together = index.search(queries, 10, mask)
    for row in (0, 1, 99, 100, 299):
        alone = index.search(queries[row : row + 1], 10, mask[row : row + 1])
        assert_equal(alone, TopK(together.scores[row : row + 1], together.items[row : row + 1]))


@every_exact
def test_scores_are_as_close_to_float64_as_numpy_is(build: Build) -> None:
    rng = np.random.default_rng(3)
    candidates, bias = rng.standard_normal((500, 64), np.float32), np.zeros(500, np.float32)
    queries = rng.standard_normal((8, 64), np.float32)
    found = build(candidates, bias).search(queries, 500)
    truth = np.take_along_axis(queries.astype(np.float64) @ candidates.T, found.items, axis=1)
    own = np.take_along_axis(queries @ candidates.T, found.items, axis=1)
    assert np.abs(found.scores - truth).max() <= 2 * np.abs(own - truth).max() + 1e-7
    assert (np.diff(found.scores) <= 0).all()


SHARES = (1.0, 0.2, 0.01, 0.0001)


@every_index
def test_under_every_filter_min_of_k_and_qualifying_are_answered_in_order(build: Build) -> None:
    rng = np.random.default_rng(4)
    candidates, bias = rng.standard_normal((6_000, 16), np.float32), np.zeros(6_000, np.float32)
    bias += rng.standard_normal(6_000, np.float32)
    queries, k = rng.standard_normal((8, 16), np.float32), 50
    allowed = np.stack([rng.random(6_000) < share for share in SHARES]).repeat(2, axis=0)
    found = build(candidates, bias).search(queries, k, pack_mask(allowed))
    exact = brute_force(queries, candidates, bias, allowed, k)
    for row, may in enumerate(allowed):
        items = found.items[row][found.items[row] >= 0]
        assert len(set(items.tolist())) == min(k, np.count_nonzero(may))
        assert may[items].all(), "only what the mask allows"
        assert (np.diff(found.scores[row][: len(items)]) <= 0).all(), "best first"
        assert np.isneginf(found.scores[row][len(items) :]).all()
        truth = candidates[items] @ queries[row] + bias[items]
        np.testing.assert_allclose(found.scores[row][: len(items)], truth, rtol=1e-4, atol=1e-4)
        assert len(np.intersect1d(items, exact.items[row])) >= 0.8 * len(items)


@every_index
def test_the_bias_decides_between_equal_rows(build: Build) -> None:
    rng = np.random.default_rng(5)
    candidates = rng.standard_normal((2_000, 8), np.float32)
    candidates[:7] = candidates[7]
    bias = np.zeros(2_000, np.float32)
    bias[:7] = 20 + np.arange(7)
    found = build(candidates, bias).search(candidates[:1], 7)
    np.testing.assert_array_equal(found.items[0], np.arange(7)[::-1])


def index_of(build: Build, n_items: int = 40, dim: int = 3) -> CheckedIndex:
    return build(np.ones((n_items, dim), np.float32), np.zeros(n_items, np.float32))


@every_index
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_queries_that_are_not_finite_are_refused(build: Build, value: float) -> None:
    queries = np.ones((2, 3), np.float32)
    queries[1, 2] = value
    with pytest.raises(ValueError, match=r"queries: expected finite numbers .*, got a row with"):
        index_of(build).search(queries, 5)


@every_exact
def test_queries_whose_scores_leave_float32_are_refused(build: Build) -> None:
    index = build(np.full((4, 3), 1e20, np.float32), np.zeros(4, np.float32))
    assert np.isfinite(index.search(np.full((1, 3), 1e17, np.float32), 4).scores).all()
    with pytest.raises(ValueError, match="scores inside float32, got a row with the largest"):
        index.search(np.full((1, 3), 1e19, np.float32), 4)


@every_index
def test_requests_of_another_shape_or_type_are_refused(build: Build) -> None:
    index, queries = index_of(build), np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match=r"queries: expected \[B, 3\] float32, got \[2, 4\] float"):
        index.search(np.ones((2, 4), np.float32), 5)
    with pytest.raises(ValueError, match=r"queries: .* got \[2, 3\] float64"):
        index.search(queries.astype(np.float64), 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k: expected at least 1, got 0"):
        index.search(queries, 0)
    with pytest.raises(ValueError, match=r"mask: expected \[2, 2\] int32, got \[2, 40\] bool"):
        index.search(queries, 5, np.ones((2, 40), bool))  # type: ignore[arg-type]


@every_index
def test_catalogues_that_cannot_be_searched_are_refused(build: Build) -> None:
    rows, bias = np.ones((4, 2), np.float32), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match=r"candidates: expected \[N, D\] float32, got \[4\]"):
        build(rows[:, 0], bias)
    with pytest.raises(ValueError, match=r"bias: expected \[4\] float32, got \[3\] float32"):
        build(rows, bias[:3])
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        build(rows, bias, threads=0)
    with pytest.raises(ValueError, match="candidates and bias: expected finite numbers"):
        build(rows, np.array([0, 0, np.nan, 0], np.float32))
