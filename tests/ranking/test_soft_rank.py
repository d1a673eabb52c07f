"""Soft ranks against the optimality of a projection, finite differences, and their two limits."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import rankdata

from engine.ranking.soft_rank import project, soft_rank

F64 = NDArray[np.float64]


def one(scores: F64, epsilon: float) -> F64:
    return project(scores, np.zeros(len(scores), np.int64), np.array([epsilon])).ranks


def in_permutahedron(ranks: F64) -> bool:
    """The k least coordinates sum to at least 1 + … + k, and all of them to n(n + 1)/2."""
    n = len(ranks)
    least = np.cumsum(np.sort(ranks)) - np.cumsum(np.arange(1, n + 1))
    return bool((least >= -1e-9 * n**2).all() and abs(least[-1]) <= 1e-9 * n**2)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 101])
@pytest.mark.parametrize("epsilon", [0.01, 0.3, 3.0])
def test_ranks_are_the_nearest_point_of_the_permutahedron(n: int, epsilon: float) -> None:
    """A projection t of z is the point with <z - t, p - t> <= 0 for every corner p."""
    rng = np.random.default_rng(n)
    scores = rng.normal(size=n)
    ranks = one(scores, epsilon)
    assert in_permutahedron(ranks)
    toward = scores / epsilon - ranks
    # The corner that goes furthest along `toward` sorts as it does.
    corner = rankdata(toward, method="ordinal")
    assert toward @ (corner - ranks) <= 1e-9 * n**2 / epsilon


@pytest.mark.parametrize("epsilon", [1e-3, 0.05, 1.0, 50.0])
def test_their_sum_is_that_of_the_hard_ranks(epsilon: float) -> None:
    n = 997
    ranks = one(np.random.default_rng(1).normal(size=n), epsilon)
    assert ranks.sum() == pytest.approx(n * (n + 1) / 2, rel=1e-12)


def test_gaps_of_at_least_epsilon_give_hard_ranks_and_no_gradient() -> None:
    rng = np.random.default_rng(2)
    scores = torch.from_numpy(rng.permutation(np.cumsum(0.5 + rng.random(200)))).requires_grad_()
    ranks, size = soft_rank(scores, 0.49)
    np.testing.assert_array_equal(ranks.detach(), rankdata(scores.detach()))
    assert len(size) == len(scores)
    (ranks * torch.from_numpy(rng.normal(size=200))).sum().backward()
    np.testing.assert_array_equal(scores.grad, np.zeros(200))


def test_equal_scores_share_their_mean_rank() -> None:
    scores = np.array([3.0, 1.0, 3.0, 2.0, 1.0, 3.0])
    np.testing.assert_allclose(one(scores, 1e-3), rankdata(scores), rtol=1e-12)


def test_a_large_epsilon_leaves_one_block_and_a_straight_line() -> None:
    """From 2 range(s)/n on the soft AUC is 1/2 + (mean s⁺ - mean s⁻)/(εn): no order is left."""
    rng = np.random.default_rng(3)
    n = 50
    scores, positive = rng.normal(size=n), rng.random(n) < 0.3
    epsilon = 2 * np.ptp(scores) / n
    ranks, size = soft_rank(torch.from_numpy(scores), epsilon)
    assert size.tolist() == [n]
    np.testing.assert_allclose(ranks, (n + 1) / 2 + (scores - scores.mean()) / epsilon)
    n_positive = positive.sum()
    area = (ranks.numpy()[positive].sum() - n_positive * (n_positive + 1) / 2) / (
        n_positive * (n - n_positive)
    )
    difference = scores[positive].mean() - scores[~positive].mean()
    assert area == pytest.approx(0.5 + difference / (epsilon * n))


@pytest.mark.parametrize("epsilon", [0.02, 0.1, 1.0])
def test_the_backward_is_that_of_finite_differences(epsilon: float) -> None:
    rng = np.random.default_rng(4)
    scores = torch.from_numpy(rng.normal(size=60)).requires_grad_()
    request = torch.from_numpy(rng.integers(0, 4, 60))
    per_request = torch.tensor([epsilon, 2 * epsilon, epsilon / 2, epsilon], dtype=torch.float64)
    assert 4 <= len(soft_rank(scores, per_request, request)[1]) <= 60
    torch.autograd.gradcheck(
        lambda s: soft_rank(s, per_request, request)[0], scores, eps=1e-7, atol=1e-5
    )


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    spread=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32 - 1),
)
def test_requests_in_one_call_rank_as_each_alone(
    lengths: list[int], spread: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    request = np.repeat(np.arange(len(lengths)), lengths)
    scores = np.round(rng.normal(size=len(request)) * spread, 2) + 100 * rng.normal(
        size=len(lengths)
    ).round(1)[request]  # fmt: skip
    epsilon = spread * rng.uniform(0.01, 1, len(lengths))
    shuffle = rng.permutation(len(request))
    found = project(scores[shuffle], request[shuffle], epsilon)
    assert found.size.sum() == len(request)
    for q in range(len(lengths)):
        mine = request[shuffle] == q
        np.testing.assert_allclose(
            found.ranks[mine], one(scores[shuffle][mine], epsilon[q]), rtol=1e-9, atol=1e-9
        )
        assert set(found.block[mine]).isdisjoint(found.block[~mine])


def test_an_absent_request_changes_nothing() -> None:
    scores = torch.tensor([0.1, 0.4, 0.2, 0.9])
    epsilon = torch.full((6,), 0.2)
    found = soft_rank(scores, epsilon, torch.tensor([1, 1, 5, 5]))[0]
    assert torch.equal(found, soft_rank(scores, epsilon, torch.tensor([0, 0, 1, 1]))[0])


def test_half_types_and_no_scores() -> None:
    scores = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float16)
    assert torch.equal(
        soft_rank(scores, 0.5)[0], torch.tensor([2.0, 1.0, 3.0], dtype=torch.float16)
    )
    ranks, size = soft_rank(torch.zeros(0), 0.5)
    assert ranks.shape == size.shape == (0,)


@pytest.mark.parametrize(
    ("scores", "epsilon", "request_", "message"),
    [
        ([0.0, np.nan], 1.0, None, "scores: expected finite values, got nan at row 1"),
        ([0.0, 1.0], 0.0, None, "epsilon: expected > 0, got 0.0"),
        ([0.0, 1.0], 1e-13, None, "epsilon: expected scores within 2^40 ε in all, got 1e+13 ε"),
        ([0.0, 1.0], 1.0, [0], "scores and request: expected one length [n], got [2] and [1]"),
        ([0.0, 1.0], [1.0], [0, 1], "epsilon: expected one for each of 2 requests, got [1]"),
    ],
)
def test_what_cannot_be_ranked_is_refused(
    scores: list[float], epsilon: float | list[float], request_: list[int] | None, message: str
) -> None:
    given_epsilon = torch.tensor(epsilon) if isinstance(epsilon, list) else epsilon
    with pytest.raises(ValueError, match=re.escape(f"soft_rank: {message}")):
        soft_rank(
            torch.tensor(scores, dtype=torch.float64),
            given_epsilon,
            None if request_ is None else torch.tensor(request_),
        )
