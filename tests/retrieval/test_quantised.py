"""The scan in 8 bits: its margins hold, and what they prove is the exact index's answer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.retrieval.codes import Codes
from engine.retrieval.exact import ExactIndex
from engine.retrieval.mask import pack_mask
from engine.retrieval.quantised import QuantisedIndex

MAGNITUDES = (1e-38, 1e-20, 1e-3, 1.0, 1e3, 1e16)


def rows_of(
    rng: np.random.Generator, n_items: int, dim: int, magnitude: float, spread: float
) -> NDArray[np.float32]:
    """Rows whose norms differ, a fifth of them copies of others."""
    rows = rng.standard_normal((n_items, dim)) * np.exp(spread * rng.standard_normal((n_items, 1)))
    copies = rng.integers(0, n_items, n_items // 5)
    rows[rng.integers(0, n_items, len(copies))] = rows[copies]
    return (rows * magnitude).astype(np.float32)


@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.sampled_from([1, 255, 256, 257, 1_031, 5_000]),
    dim=st.sampled_from([1, 3, 64, 131]),
    k=st.sampled_from([1, 10, 60, 300]),
    magnitude=st.sampled_from(MAGNITUDES),
    query_magnitude=st.sampled_from(MAGNITUDES),
    bias_magnitude=st.sampled_from([0.0, 1.0, 1e4]),
    spread=st.sampled_from([0.0, 1.5]),
    share=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
)
@settings(deadline=None, max_examples=150)
def test_answers_equal_the_exact_index_to_the_bit(
    seed: int,
    n_items: int,
    dim: int,
    k: int,
    magnitude: float,
    query_magnitude: float,
    bias_magnitude: float,
    spread: float,
    share: float,
) -> None:
    rng = np.random.default_rng(seed)
    candidates = rows_of(rng, n_items, dim, magnitude, spread)
    queries = rows_of(rng, 5, dim, query_magnitude, spread)
    bias = (bias_magnitude * rng.standard_normal(n_items)).astype(np.float32)
    allowed = rng.random((5, n_items)) < share
    allowed[1] = allowed[0]
    mask = pack_mask(allowed)
    expected = ExactIndex(candidates, bias).search(queries, k, mask)
    found = QuantisedIndex(candidates, bias).search(queries, k, mask)
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_array_equal(found.scores, expected.scores)


@given(
    seed=st.integers(0, 2**32 - 1),
    dim=st.sampled_from([1, 2, 64, 300]),
    magnitude=st.sampled_from(MAGNITUDES),
    bias_magnitude=st.sampled_from([0.0, 1.0, 1e4]),
)
@settings(deadline=None, max_examples=60)
def test_no_score_is_off_by_more_than_its_margin(
    seed: int, dim: int, magnitude: float, bias_magnitude: float
) -> None:
    rng = np.random.default_rng(seed)
    rows, queries = rows_of(rng, 700, dim, magnitude, 1.0), rows_of(rng, 4, dim, 1.0, 1.0)
    # Rounding at its worst: each number half-way between two codes, all of one sign.
    rows[:9], queries[0] = magnitude * 63.5, 62.5
    rows[:9, 0], queries[0, 0] = magnitude * 127, 63
    bias = (bias_magnitude * rng.standard_normal(700)).astype(np.float32)
    codes = Codes(rows, bias, threads=1)
    coded, scales, coefficients = codes.quantised(queries)
    sums = codes._sums(coded)[:, :700].astype(np.float32)
    approximate = sums * codes._scales[:700] * scales[:, None] + bias
    exact = queries.astype(np.float64) @ rows.astype(np.float64).T + bias
    margins = coefficients @ codes._bounds[:700].T
    assert (np.abs(approximate - exact) <= margins).all()


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_best_are_found_where_rounding_puts_others_far_above_them(k: int) -> None:
    rng = np.random.default_rng(9)
    rows = rng.standard_normal((6_000, 32), np.float32)
    rows[:300, 0] = 127
    rows[:5, 1:] = 40.49  # rounded to 40
    rows[5:300, 1:] = 40.51  # rounded to 41
    rows[5:300, 1] = 38
    rows, bias = rows[rng.permutation(6_000)], np.zeros(6_000, np.float32)
    queries = np.full((1, 32), 63, np.float32)
    expected = ExactIndex(rows, bias).search(queries, k)
    found = QuantisedIndex(rows, bias).search(queries, k)
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_array_equal(found.scores, expected.scores)


def searched(monkeypatch: pytest.MonkeyPatch, index: QuantisedIndex) -> list[str]:
    """Records which of its two ways the exact index is asked in."""
    ways: list[str] = []
    exact = index._exact
    for name in ("scan", "scores"):

        def counted(*arguments: object, name: str = name) -> object:
            ways.append(name)
            return getattr(ExactIndex, name)(exact, *arguments)

        monkeypatch.setattr(exact, name, counted)
    return ways


def test_what_is_scanned_in_8_bits_and_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((4_000, 32), np.float32)
    index = QuantisedIndex(rows, np.zeros(4_000, np.float32))
    ways = searched(monkeypatch, index)
    queries = rng.standard_normal((3, 32), np.float32)
    few = np.arange(4_000) < 200
    index.search(queries, 10)
    assert ways == ["scores"], "a whole catalogue is scanned in 8 bits"
    index.search(queries, 10, pack_mask(np.stack([~few, few, ~few])))
    assert ways[1:] == ["scores", "scan", "scores"], "a mask that passes few items is not"
    index.search(queries, 251)
    assert ways[4:] == ["scan"], "nor are many answers"
    index.search(queries * np.float32(1e35), 10)
    assert ways[5:] == ["scan"], "nor are sums that could leave float32"


def test_scores_that_8_bits_cannot_tell_apart_are_all_scored(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(6)
    rows = 1 + 1e-4 * rng.standard_normal((4_000, 32), np.float32)
    bias = np.zeros(4_000, np.float32)
    index, queries = QuantisedIndex(rows, bias), np.ones((2, 32), np.float32)
    expected = ExactIndex(rows, bias).search(queries, 10)
    ways = searched(monkeypatch, index)
    found = index.search(queries, 10)
    assert ways == ["scores", "scan"]
    np.testing.assert_array_equal(found.items, expected.items)


def test_few_items_are_rescored() -> None:
    rng = np.random.default_rng(7)
    rows, bias = rng.standard_normal((20_000, 64), np.float32), np.zeros(20_000, np.float32)
    index, found = QuantisedIndex(rows, bias), []
    score = index._exact.scores

    def counted(queries: NDArray[np.float32], items: NDArray[np.int64]) -> NDArray[np.float32]:
        found.append(np.count_nonzero(items >= 0) / len(items))
        return score(queries, items)

    index._exact.scores = counted  # type: ignore[method-assign]
    index.search(rng.standard_normal((50, 64), np.float32), 10)
    assert 10 <= found[0] < 40


def test_rows_whose_whole_sums_leave_float32_are_answered_too() -> None:
    rng = np.random.default_rng(10)
    rows = (1e36 * rng.standard_normal((2_000, 64))).astype(np.float32)
    queries, bias = rng.standard_normal((4, 64), np.float32) / 1e6, np.zeros(2_000, np.float32)
    expected = ExactIndex(rows, bias).search(queries, 10)
    with np.errstate(over="raise"):
        found = QuantisedIndex(rows, bias).search(queries, 10)
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_many_rows_are_split_over_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.retrieval.codes._SHARD_BYTES", 8 * 512)
    monkeypatch.setattr("engine.retrieval.quantised._CHUNK", 4_096)
    rng = np.random.default_rng(8)
    rows, bias = rng.standard_normal((1_500, 8), np.float32), rng.standard_normal(1_500, np.float32)
    queries = rng.standard_normal((7, 8), np.float32)
    index = QuantisedIndex(rows, bias)
    assert len(index._codes._shards) == 3
    mask = pack_mask(rng.random((7, 1_500)) < 0.5)
    expected = ExactIndex(rows, bias).search(queries, 10, mask)
    found = index.search(queries, 10, mask)
    np.testing.assert_array_equal(found.items, expected.items)
    np.testing.assert_array_equal(found.scores, expected.scores)
