"""The cut under quotas beside a greedy one, and the score that it cuts by."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from engine.ranking.wesing.coarse import CoarseRanker, Ids, cut, fit_coarse
from engine.ranking.wesing.config import CoarseConfig


def greedy(
    scores: list[float], items: list[int], followed: list[bool], category: list[int],
    config: CoarseConfig,
) -> list[int]:  # fmt: skip
    """Places kept of one request, room by room."""
    most = max(1, int(config.share * config.keep))
    order = sorted(
        (k for k in range(len(items)) if items[k] >= 0), key=lambda k: (-scores[k], items[k])
    )
    kept: list[int] = []

    def takes(k: int) -> bool:
        return sum(category[j] == category[k] for j in kept) < most

    for k in order:
        if followed[k] and len(kept) < config.private and takes(k):
            kept.append(k)
    for k in order:
        if k not in kept and len(kept) < config.keep and takes(k):
            kept.append(k)
    return [k for k in order if k in kept]


_VALUES = (st.integers(-2, 2), st.booleans(), st.integers(0, 3), st.booleans())
requests = st.integers(0, 9).flatmap(
    lambda n: st.lists(
        st.tuples(*(st.lists(x, min_size=n, max_size=n) for x in _VALUES)), min_size=1, max_size=4
    )
)


@settings(max_examples=300, deadline=None)
@given(requests, st.integers(1, 7), st.integers(0, 7), st.floats(0.01, 1))
def test_it_keeps_what_a_greedy_cut_keeps(
    rows: list[tuple[list[int], list[bool], list[int], list[bool]]],
    keep: int, private: int, share: float,
) -> None:  # fmt: skip
    config = CoarseConfig(keep=keep, private=min(private, keep), share=share)
    n = len(rows[0][0])
    rng = np.random.default_rng(0)
    items = np.stack([rng.permutation(20)[:n] for _ in rows]).astype(np.int64)
    items[np.array([absent for *_, absent in rows], np.bool_).reshape(items.shape)] = -1
    scores = np.array([s for s, *_ in rows], np.float64).reshape(items.shape)
    followed = np.array([f for _, f, *_ in rows], np.bool_).reshape(items.shape)
    category = np.array([c for *_, c, _ in rows], np.int64).reshape(items.shape)
    found = cut(scores, items, followed, category, config)
    assert found.shape == (len(rows), keep)
    for b in range(len(rows)):
        row = (x[b].tolist() for x in (scores, items, followed, category))
        wanted = greedy(*row, config)
        assert found[b].tolist() == wanted + [-1] * (keep - len(wanted))


def of(scores: list[float], **changes: list[int]) -> tuple[np.ndarray, Ids, np.ndarray, Ids]:
    n = len(scores)
    given = {"items": list(range(n)), "followed": [0] * n, "category": [0] * n} | changes
    return (
        np.array([scores]),
        np.array([given["items"]]),
        np.array([given["followed"]], np.bool_),
        np.array([given["category"]]),
    )


def test_followed_rooms_have_their_places_and_ties_go_to_the_lower_id() -> None:
    config = CoarseConfig(keep=3, private=1, share=1.0)
    found = cut(*of([5, 5, 4, 1, 0], items=[9, 3, 4, 6, 7], followed=[0, 0, 0, 1, 1]), config)
    assert found.tolist() == [[1, 0, 3]]
    assert cut(*of([]), config).tolist() == [[-1, -1, -1]]


def test_a_category_has_its_share_at_most() -> None:
    config = CoarseConfig(keep=4, private=0, share=0.5)
    found = cut(*of([9, 8, 7, 6, 5], category=[1, 1, 1, 0, 1]), config)
    assert found.tolist() == [[0, 1, 3, -1]]


def test_thousands_are_cut_to_hundreds() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(8, 3000))
    items = np.tile(rng.permutation(3000), (8, 1))
    followed, category = rng.random((8, 3000)) < 0.02, rng.integers(0, 3, (8, 3000))
    found = cut(scores, items, followed, category, CoarseConfig())
    rows = np.arange(8)[:, None]
    assert (found >= 0).all()
    assert (np.diff(scores[rows, found], axis=1) <= 0).all()
    assert (followed[rows, found].sum(1) >= 20).all()
    assert max(np.bincount(row).max() for row in category[rows, found]) <= 100
    assert all(len(set(row)) == 200 for row in found.tolist())


def test_the_score_is_fitted_to_the_odds() -> None:
    rng = np.random.default_rng(0)
    product, features = rng.normal(size=20_000), rng.normal(size=(20_000, 2))
    odds = -1 + 2 * product + features @ [0.5, -1.0]
    ranker = fit_coarse(product, features, rng.random(20_000) < 1 / (1 + np.exp(-odds)))
    np.testing.assert_allclose(ranker.weight, [2, 0.5, -1], atol=0.1)
    np.testing.assert_allclose(ranker.bias, -1, atol=0.1)


def test_items_of_all_requests_or_of_each_score_alike() -> None:
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=s).astype(np.float32) for s in ((3, 4), (5, 4)))
    features = rng.normal(size=(3, 5, 2))
    ranker = CoarseRanker(np.array([2.0, 1.0, -1.0]), 0.5)
    shared = ranker(users, items, features)
    np.testing.assert_allclose(
        shared, ranker(users, np.tile(items, (3, 1, 1)), features), rtol=1e-5
    )
    one = 0.5 + 2 * users[1] @ items[2] + features[1, 2, 0] - features[1, 2, 1]
    np.testing.assert_allclose(shared[1, 2], one, rtol=1e-5)


def test_wrong_input_is_refused() -> None:
    config = CoarseConfig(keep=3, private=1)
    scores, items, followed, category = of([1, 2])
    with pytest.raises(ValueError, match=r"of one shape \[B, N\], got \[\[1, 1\], \[1, 2\]"):
        cut(scores[:, :1], items, followed, category, config)
    with pytest.raises(ValueError, match="scores: expected finite numbers of every item"):
        cut(np.array([[1, np.nan]]), items, followed, category, config)
    with pytest.raises(ValueError, match="category: expected 0 or more, got -2"):
        cut(scores, items, followed, category - 2, config)
    with pytest.raises(ValueError, match="label: expected both classes, got one"):
        fit_coarse(np.ones(2), np.ones((2, 1)), np.array([True, True]))
    with pytest.raises(ValidationError, match="private: expected at most keep 3, got 4"):
        CoarseConfig(keep=3, private=4)
