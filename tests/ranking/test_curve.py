import numpy as np
import pytest

from engine.ranking.curve import diversity_curve


def test_diversity_is_paid_for_in_relevance() -> None:
    """Relevance follows one direction, so that the most relevant items are alike."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 80, 6))
    relevance = vectors[:, :, 0] + 0.3 * rng.normal(size=(30, 80))
    rows = diversity_curve(relevance, vectors, 10, [0.0, 0.2, 0.4, 0.6, 0.8])
    assert [row["diversity"] for row in rows] == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert rows[0]["kept"] == 1
    for name in ("relevance", "kept", "similarity"):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True)
        assert values[-1] < values[0] - 0.05


def test_the_measures_are_those_of_the_page() -> None:
    vectors = np.array([[[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    relevance = np.array([[4.0, 3.0, 2.0, 1.0]])
    row = diversity_curve(relevance, vectors, 2, [0.0])[0]
    assert row["similarity"] == pytest.approx(1.0)
    assert row["relevance"] == pytest.approx((1.5 + 0.5) / 2 / np.std([1, 2, 3, 4]))
    wide = diversity_curve(relevance, vectors, 2, [0.9])[0]
    assert wide["similarity"] == pytest.approx(0.0)
    assert wide["kept"] == 0.5


def test_what_a_page_is_worth_and_of_how_many_kinds() -> None:
    vectors = np.array([[[2.0, 0.0], [3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    relevance = np.array([[4.0, 3.0, 2.0, 1.0]])
    worth, kind = np.array([[0.5, 0.25, 0.125, 1.0]]), np.array([[7, 7, 7, 1]])
    rows = diversity_curve(relevance, vectors, 2, [0.0, 0.9], worth=worth, kind=kind)
    assert [row["worth"] for row in rows] == [0.75, 1.5]
    assert [row["kinds"] for row in rows] == [1, 2]
    assert [row["theta"] for row in rows] == pytest.approx([1.0, 0.1])


def test_intervals_are_over_requests() -> None:
    rng = np.random.default_rng(1)
    relevance, vectors = rng.normal(size=(50, 9)), rng.normal(size=(50, 9, 3))
    few = diversity_curve(relevance[:10], vectors[:10], 3, [0.5])[0]
    many = diversity_curve(relevance, vectors, 3, [0.5])[0]
    for name in ("relevance", "kept", "similarity"):
        low, high = many[f"{name}_ci"]
        assert low < many[name] < high
        assert high - low < 0.8 * np.diff(few[f"{name}_ci"])[0]


def test_a_page_has_a_pair_and_enough_candidates() -> None:
    for size in (1, 5):
        with pytest.raises(ValueError, match=rf"size: expected 2 to 4 candidates, got {size}$"):
            diversity_curve(np.zeros((1, 4)), np.ones((1, 4, 2)), size, [0.5])
