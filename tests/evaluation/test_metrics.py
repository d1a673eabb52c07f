from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation.metrics import ACCURACY, paired_difference, per_request, summary


def padded(items: list[int], k: int = 10) -> list[int]:
    return items + [-1] * (k - len(items))


def by_hand(row: list[int], targets: list[int]) -> dict[str, float]:
    hits = [item in targets for item in row]
    gain = sum(hit / log2(rank + 2) for rank, hit in enumerate(hits[:10]))
    ideal = sum(1 / log2(rank + 2) for rank in range(min(10, len(targets))))
    return {
        "hit@5": float(any(hits[:5])),
        "hit@10": float(any(hits[:10])),
        "recall@10": sum(hits[:10]) / len(targets),
        "ndcg@10": gain / ideal,
    }


CASES = [
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0], (1, 1, 1, 1)),
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [9], (0, 1, 1, 1 / log2(11))),
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [4], (1, 1, 1, 1 / log2(6))),
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [5], (0, 1, 1, 1 / log2(7))),
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [77], (0, 0, 0, 0)),
    # Two of three found; the ideal has all three in front.
    ([3, 11, 12, 7, 13, 14, 15, 16, 17, 18], [3, 7, 40],
     (1, 1, 2 / 3, (1 + 1 / log2(5)) / (1 + 1 / log2(3) + 0.5))),
    # More targets than places: recall counts all, the ideal ten.
    ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], list(range(20)), (1, 1, 0.5, 1)),
    # Lists that are padded, with the id that sorts first at the end.
    (padded([30, 20, 3]), [3, 20], (1, 1, 1, (1 / log2(3) + 0.5) / (1 + 1 / log2(3)))),
    (padded([]), [3], (0, 0, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("row", "targets", "expected"), CASES)
def test_values_by_hand(row: list[int], targets: list[int], expected: tuple[float, ...]) -> None:
    assert tuple(by_hand(row, targets)[name] for name in ACCURACY) == pytest.approx(expected)
    values = per_request(np.array([row]), [np.array(targets, np.int32)])
    assert tuple(values[name][0] for name in ACCURACY) == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 30), max_size=12, unique=True),
            st.lists(st.integers(0, 30), min_size=1, max_size=15, unique=True),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_each_request_is_measured_alone(requests: list[tuple[list[int], list[int]]]) -> None:
    lists = np.array([padded(row, 12) for row, _ in requests])
    values = per_request(lists, [np.array(targets, np.int32) for _, targets in requests])
    for q, (row, targets) in enumerate(requests):
        for name, expected in by_hand(row, targets).items():
            assert values[name][q] == pytest.approx(expected), (name, q)


def test_the_order_of_a_list_decides_not_the_items_names() -> None:
    one, other = ([[100, 9, 21]], [[9, 21, 100]])
    targets = [np.array([100], np.int32)]
    first, last = (per_request(np.array(rows), targets)["ndcg@10"][0] for rows in (one, other))
    assert (first, last) == (1.0, 0.5)


def test_the_summary_is_of_means_and_of_what_anyone_was_shown() -> None:
    lists = np.array([padded([1, 2, 3]), padded([3, 4]), padded([])])
    values = per_request(lists, [np.array([t], np.int32) for t in (1, 9, 1)])
    means = summary(values, lists, n_catalogue=8)
    assert means["coverage@10"] == 4 / 8
    assert means["hit@5"] == means["recall@10"] == pytest.approx(1 / 3)
    assert list(means) == [*ACCURACY, "coverage@10"]
    eleven = np.arange(11)[None]
    assert summary(per_request(eleven, [np.array([0])]), eleven, 20)["coverage@10"] == 0.5


def test_a_paired_difference_has_an_interval_that_holds_its_mean() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.random(400)
    ours = theirs + rng.normal(0.05, 0.1, 400)
    result = paired_difference(ours, theirs)
    assert result == paired_difference(ours, theirs), "the same requests, the same interval"
    assert result["mean"] == pytest.approx((ours - theirs).mean())
    assert 0 < result["low"] < result["mean"] < result["high"]
    # 95 %: about two standard errors to either side.
    error = (ours - theirs).std() / 20
    assert result["high"] - result["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)
    turned = paired_difference(theirs, ours)
    assert turned["mean"] == pytest.approx(-result["mean"])
    assert turned["high"] < 0


def test_the_pairs_decide_the_interval() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.random(300) * 10
    ours = theirs + 0.1 + rng.normal(0, 0.01, 300)
    paired = paired_difference(ours, theirs)
    broken = paired_difference(rng.permutation(ours), theirs)
    assert paired["low"] > 0.09
    assert broken["low"] < 0 < broken["high"]


def test_equal_differences_have_no_width() -> None:
    ones = np.ones(5)
    assert paired_difference(ones, ones) == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert paired_difference(ones, 0 * ones) == {"mean": 1.0, "low": 1.0, "high": 1.0}
