"""AUC by ranks against counted pairs, and the bootstrap against resampling by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from engine.ranking.auc import F64, Ids, Labels, auc, bootstrap, gauc, interval, per_request


def counted(scores: F64, label: Labels) -> float:
    """Share of (positive, negative) pairs in the right order, ties half."""
    positive, negative = scores[label], scores[~label]
    if not len(positive) or not len(negative):
        return float("nan")
    gap = positive[:, None] - negative[None, :]
    return float(((gap > 0) + 0.5 * (gap == 0)).mean())


def impressions(seed: int, n: int = 200, m: int = 3) -> tuple[F64, Labels, Ids]:
    rng = np.random.default_rng(seed)
    request = rng.integers(0, max(1, n // 8), n)
    return rng.normal(size=n).round(1), rng.random((n, m)) < [0.5, 0.2, 0.05][:m], request


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 60))
def test_the_rank_sum_counts_pairs_with_ties(seed: int, n: int) -> None:
    scores, labels, request = impressions(seed, n)
    np.testing.assert_allclose(auc(scores, labels), [counted(scores, y) for y in labels.T])
    values = per_request(scores, labels, request)
    for q in range(request.max() + 1):
        mine = request == q
        expected = [counted(scores[mine], y[mine]) for y in labels.T]
        np.testing.assert_allclose(values[q], expected, atol=1e-12)


def test_it_is_the_mann_whitney_statistic() -> None:
    scores, labels, _ = impressions(1, 5000)
    np.testing.assert_allclose(
        auc(scores, labels),
        [mannwhitneyu(scores[y], scores[~y]).statistic / (y.sum() * (~y).sum()) for y in labels.T],
    )


def test_requests_with_one_class_are_left_out_and_counted() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    request = np.array([0, 0, 1, 1, 3, 3])
    labels = np.array([[0, 1], [1, 1], [1, 0], [0, 0], [1, 1], [1, 1]], bool)
    found = gauc(scores, labels, request)
    np.testing.assert_array_equal(found.mean, [0.5, np.nan])
    assert found.counted.tolist() == [2, 0]
    assert found.left_out.tolist() == [1, 3]


def test_no_impressions_have_no_auc() -> None:
    assert np.isnan(auc(np.zeros(0), np.zeros((0, 2), bool))).tolist() == [True, True]


@pytest.mark.parametrize("grouped", [False, True])
def test_a_draw_is_the_auc_of_its_repeated_requests(grouped: bool) -> None:
    scores, labels, request = impressions(2)
    both = np.stack([scores, -scores])
    draws = bootstrap(both, labels, request, grouped=grouped, resamples=7, seed=5)
    n_requests = request.max() + 1
    weight = np.random.default_rng(5).multinomial(
        n_requests, np.full(n_requests, 1 / n_requests), size=7
    )
    for draw, times in zip(draws, weight, strict=True):
        rows = np.repeat(np.arange(len(scores)), times[request])
        # A request drawn twice is two requests.
        copy = np.concatenate([np.arange(t) for t in times[request]])
        drawn = request[rows] * 1000 + copy
        for s, row in enumerate(both):
            expected = (
                gauc(row[rows], labels[rows], drawn).mean
                if grouped
                else auc(row[rows], labels[rows])
            )
            np.testing.assert_allclose(draw[s], expected)


def test_units_are_drawn_whole() -> None:
    """Of two users, a draw has both or one twice: at most three values come up."""
    scores, labels, request = impressions(3)
    unit = request % 2
    found = bootstrap(scores[None], labels, request, grouped=True, unit=unit, resamples=50)
    expected = {
        round(gauc(scores[rows], labels[rows], request[rows]).mean[0], 9)
        for rows in (unit == 0, unit == 1, unit >= 0)
    }
    assert set(found[:, 0, 0].round(9).tolist()) == expected
    with pytest.raises(ValueError, match=r"^auc: unit: expected whole requests, got two units in "):
        bootstrap(scores[None], labels, request, grouped=True, unit=np.arange(len(request)))


def test_the_interval_covers_what_it_should() -> None:
    """95 % intervals of an AUC of 0.5 hold it about 95 times in a hundred."""
    held = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        scores, labels = rng.normal(size=(1, 400)), rng.random((400, 1)) < 0.4
        draws = bootstrap(
            scores, labels, np.repeat(np.arange(100), 4), grouped=False, resamples=300
        )
        low, high = interval(draws[:, 0, 0])
        held += low <= 0.5 <= high
    assert 88 <= held <= 100


def test_lengths_and_nan_are_refused() -> None:
    labels = np.zeros((2, 1), bool)
    with pytest.raises(ValueError, match=r"expected one length, got 3, 2 and 2$"):
        per_request(np.zeros(3), labels, np.zeros(2, np.int64))
    with pytest.raises(ValueError, match=r"^auc: scores: expected numbers, got NaN at row 1$"):
        auc(np.array([0.0, np.nan]), labels)
