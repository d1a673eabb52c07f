"""Greedy MAP against determinants, the exhaustive argmax where greedy is it, and its limits."""

import itertools
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ranking.dpp import F64, RIDGE, pages, standardised


def kernel(relevance: F64, vectors: F64, theta: float, ridge: float = RIDGE) -> F64:
    """L = Diag(q) S Diag(q) of one request, q = exp(α r), written out."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    s = ((1 + unit @ unit.T) / 2 + ridge * np.eye(len(unit))) / (1 + ridge)
    q = np.exp(theta / (2 * (1 - theta)) * relevance)
    return q[:, None] * s * q[None, :]


def log_det(of: F64, items: list[int]) -> float:
    return float(np.linalg.slogdet(of[np.ix_(items, items)])[1])


def naive(of: F64, size: int, window: int) -> list[int]:
    page: list[int] = []
    for _ in range(min(size, len(of))):
        recent = page[max(0, len(page) - window + 1) :]
        rest = [i for i in range(len(of)) if i not in page]
        page.append(rest[int(np.argmax([log_det(of, [*recent, i]) for i in rest]))])
    return page


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 17),
    size=st.integers(1, 9),
    theta=st.floats(0.01, 0.95),
    window=st.integers(2, 10),
)
def test_it_is_the_greedy_by_determinants(
    seed: int, n: int, size: int, theta: float, window: int
) -> None:
    rng = np.random.default_rng(seed)
    relevance, vectors = rng.normal(size=(3, n)), rng.normal(size=(3, n, 4))
    theta_ = np.array([theta, theta / 2, theta])
    found = pages(relevance, vectors, size, 1 - theta_, window=window)
    for b in range(3):
        of = kernel(relevance[b], vectors[b], theta_[b])
        expected = naive(of, size, window)
        assert found[b, : len(expected)].tolist() == expected
        assert (found[b, len(expected) :] == -1).all()


def test_one_item_and_orthogonal_items_are_the_exhaustive_argmax() -> None:
    rng = np.random.default_rng(0)
    n, theta = 7, 0.6
    relevance = rng.normal(size=(1, n))
    # (1 + cos)/2 of these is the identity plus a constant, by which no set gains on another.
    for vectors, sizes in ((rng.normal(size=(1, n, 3)), [1]), (np.eye(n)[None], [1, 2, 3, 5])):
        of = kernel(relevance[0], vectors[0], theta)
        for size in sizes:
            best = max(itertools.combinations(range(n), size), key=lambda y: log_det(of, list(y)))
            assert sorted(pages(relevance, vectors, size, 1 - theta)[0].tolist()) == list(best)


def test_the_second_item_is_the_exhaustive_partner_of_the_first() -> None:
    rng = np.random.default_rng(1)
    relevance, vectors = rng.normal(size=(50, 9)), rng.normal(size=(50, 9, 3))
    for b, (first, second) in enumerate(pages(relevance, vectors, 2, 0.5)):
        of = kernel(relevance[b], vectors[b], 0.5)
        others = [i for i in range(9) if i != first]
        assert second == max(others, key=lambda i: log_det(of, [first, i]))


def test_diversity_goes_from_the_order_of_relevance_to_the_widest_spread() -> None:
    rng = np.random.default_rng(2)
    relevance, vectors = rng.normal(size=(20, 60)), rng.normal(size=(20, 60, 8))
    order = pages(relevance, vectors, 10, 0.0)
    np.testing.assert_array_equal(order, np.argsort(-relevance, 1)[:, :10])
    mean, volume = [], []
    for diversity in (0.0, 0.3, 0.6, 0.9):
        chosen = pages(relevance, vectors, 10, diversity)
        mean.append(np.take_along_axis(relevance, chosen, 1).mean())
        volume.append(
            np.mean([log_det(kernel(r, v, 0.0), list(c)) for r, v, c in
                     zip(relevance, vectors, chosen, strict=True)])
        )  # fmt: skip
    assert mean == sorted(mean, reverse=True)
    assert volume == sorted(volume)


def test_copies_come_last_in_the_order_of_relevance() -> None:
    """Six items of two directions: the residual vanishes after two, and the page goes on."""
    vectors = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1]])[None]
    relevance = np.array([[0.9, 0.8, 0.1, 0.2, 0.7, 0.3]])
    assert pages(relevance, vectors, 6, 0.5)[0].tolist() == [0, 4, 1, 5, 3, 2]
    # A window of two lets a copy return as soon as the other direction came between.
    assert pages(relevance, vectors, 6, 0.9, window=2)[0].tolist() == [0, 4, 1, 5, 2, 3]


@pytest.mark.parametrize("window", [None, 2, 5])
@pytest.mark.parametrize("ridge", [1e-12, 1e-4])
def test_a_page_of_nothing_but_copies_is_finite_and_whole(window: int | None, ridge: float) -> None:
    vectors, relevance = np.ones((2, 30, 3)), np.linspace(0, 1, 60).reshape(2, 30)
    with np.errstate(all="raise"):
        chosen = pages(relevance, vectors, 30, 0.5, window=window, ridge=ridge)
    for page in chosen.tolist():
        assert sorted(page) == list(range(30))
    assert (chosen[:, 0] == 29).all()


def test_masked_candidates_never_appear_and_change_nothing() -> None:
    rng = np.random.default_rng(3)
    relevance, vectors = rng.normal(size=(2, 12)), rng.normal(size=(2, 12, 4))
    mask = np.ones((2, 12), bool)
    mask[0, [1, 4, 11]] = False
    mask[1, 3:] = False
    kept = np.flatnonzero(mask[0])
    alone = pages(relevance[:1, kept], vectors[:1, kept], 5, 0.4)
    poisoned = np.where(mask[:, :, None], vectors, np.inf)
    found = pages(np.where(mask, relevance, np.nan), poisoned, 5, 0.4, mask=mask)
    assert found[0].tolist() == kept[alone[0]].tolist()
    assert sorted(found[1, :3].tolist()) == [0, 1, 2]
    assert found[1, 3:].tolist() == [-1, -1]
    assert (pages(relevance, vectors, 2, 0.4, mask=~mask & mask) == -1).all()


def test_a_request_has_the_same_page_in_every_batch() -> None:
    rng = np.random.default_rng(4)
    relevance, vectors = rng.normal(size=(8, 200)), rng.normal(size=(8, 200, 16))
    for window in (None, 6):
        together = pages(relevance, vectors, 20, np.linspace(0, 1, 8), window=window)
        for b in range(8):
            alone = pages(
                relevance[b : b + 1], vectors[b : b + 1], 20, np.linspace(0, 1, 8)[b], window=window
            )
            np.testing.assert_array_equal(together[b], alone[0])


def test_a_vector_of_zeros_is_half_like_all_others() -> None:
    vectors = np.array([[[1.0, 0], [0, 0], [0, 0], [1, 0.1]]])
    relevance = np.zeros((1, 4))
    assert pages(relevance, vectors, 4, 1.0)[0].tolist() == [0, 1, 2, 3]


def test_standardised_relevance_has_mean_0_and_deviation_1_where_candidates_are() -> None:
    rng = np.random.default_rng(5)
    relevance, mask = rng.normal(3, 7, (4, 50)), rng.random((4, 50)) < 0.7
    found = standardised(relevance, mask)
    for row, kept in zip(found, mask, strict=True):
        assert row[kept].mean() == pytest.approx(0, abs=1e-12)
        assert row[kept].std() == pytest.approx(1)
    assert standardised(np.full((1, 3), 2.0)).tolist() == [[0, 0, 0]]
    poisoned = np.where(mask, relevance, np.nan)
    np.testing.assert_array_equal(standardised(poisoned, mask), found)
    with np.errstate(all="raise"):
        assert standardised(relevance[:1], np.zeros((1, 50), bool)).tolist() == [[0.0] * 50]


def test_no_candidates_give_an_empty_page() -> None:
    assert pages(np.zeros((2, 0)), np.zeros((2, 0, 3)), 2, 0.5).tolist() == [[-1, -1]] * 2
    assert pages(np.zeros((0, 4)), np.zeros((0, 4, 3)), 2, 0.5).shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vectors": np.ones((2, 4, 2))}, "vectors and mask: expected [2, 3] as of relevance,"
         " got [2, 4] and [2, 3]"),
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"window": 1}, "window: expected at least 2, got 1"),
        ({"ridge": 0.0}, "ridge: expected > 0, got 0.0"),
        ({"diversity": np.array([0.5, 1.5])}, "diversity: expected 0 to 1, got 1.5"),
        ({"diversity": float("nan")}, "diversity: expected 0 to 1, got nan"),
        ({"relevance": np.array([[0, 0, 0], [0, np.inf, 0]])},
         "relevance: expected finite values, got inf at request 1, item 1"),
        ({"vectors": np.full((2, 3, 2), np.nan)},
         "vectors: expected finite values, got others at request 0, item 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_page_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "relevance": np.zeros((2, 3)), "vectors": np.ones((2, 3, 2)), "size": 2, "diversity": 0.5,
    }  # fmt: skip
    with pytest.raises(ValueError, match=re.escape(f"pages: {message}")):
        pages(**(arguments | change))


def test_a_page_needs_neither_torch_nor_a_data_frame_library() -> None:
    script = (
        "import sys, engine.ranking.dpp, engine.ranking.auc\n"
        "print(sorted({'torch', 'polars', 'pandas'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
