import numpy as np
import pytest
from numpy.typing import NDArray

from engine.retrieval.exact import ExactIndex
from engine.retrieval.index import CheckedIndex, TopK
from engine.retrieval.mask import pack_mask
from engine.retrieval.quantised import QuantisedIndex
from engine.retrieval.recall import RecallCounts, SampledRecall


class Forgetful(ExactIndex):
    """Never answers the best item."""

    @property
    def exact(self) -> CheckedIndex:
        return self._whole

    def __init__(self, rows: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        super().__init__(rows, bias)
        self._whole = ExactIndex(rows, bias)

    def _search(self, queries: NDArray[np.float32], k: int, mask: NDArray[np.int32] | None) -> TopK:
        found = super()._search(queries, k + 1, mask)
        return TopK(found.scores[:, 1:], found.items[:, 1:])


def catalogue(n_items: int = 500) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n_items, 8), np.float32), np.zeros(n_items, np.float32)


def queries(n: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((n, 8), np.float32)


def test_counts_are_those_of_the_sampled_queries() -> None:
    watched = SampledRecall(Forgetful(*catalogue()), share=1)
    answer = watched.search(queries(6), 10)
    assert watched.counts == RecallCounts(searches=1, sampled=6, wanted=60, found=54)
    np.testing.assert_array_equal(
        answer.items, Forgetful(*catalogue()).search(queries(6), 10).items
    )
    watched.search(queries(1), 5)
    assert watched.counts == RecallCounts(searches=2, sampled=7, wanted=65, found=58)


def test_about_the_share_is_sampled() -> None:
    watched = SampledRecall(QuantisedIndex(*catalogue()), share=0.1)
    for _ in range(20):
        watched.search(queries(50), 3)
    assert 70 <= watched.counts.sampled <= 130
    assert watched.counts.found == watched.counts.wanted == 3 * watched.counts.sampled
    never = SampledRecall(QuantisedIndex(*catalogue()), share=0)
    never.search(queries(50), 3)
    assert never.counts == RecallCounts(1, 0, 0, 0)


def test_fewer_than_k_and_none_at_all_are_counted_as_they_are() -> None:
    watched = SampledRecall(Forgetful(*catalogue()), share=1)
    allowed = np.zeros((3, 500), bool)
    allowed[0, :4], allowed[1, :1] = True, True
    watched.search(queries(3), 10, pack_mask(allowed))
    assert watched.counts == RecallCounts(searches=1, sampled=3, wanted=5, found=3)


def test_any_of_equal_items_will_do() -> None:
    rows, bias = catalogue()
    rows[:] = rows[0]
    watched = SampledRecall(Forgetful(rows, bias), share=1)
    watched.search(queries(2), 10)
    assert watched.counts.found == watched.counts.wanted == 20


def test_a_share_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share: expected 0 to 1, got 1.5"):
        SampledRecall(ExactIndex(*catalogue()), share=1.5)
