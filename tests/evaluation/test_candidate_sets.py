"""Candidate sets of a session: what stands in them, what does not, and what is taken first."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.evaluation import candidate_sets as module
from engine.evaluation.candidate_sets import BUCKETS, CandidateSets, candidate_sets
from engine.evaluation.lambdamart_promotions import Promotions
from engine.evaluation.protocol import Task

DAY = 86_400
MONDAY = 19_723  # 2024-01-01, in days since 1970
N_ITEMS = 40  # of subclass 0; as many of subclass 1, and one of subclass 2
SUBCLASS = np.repeat([0, 1, 2], [N_ITEMS, N_ITEMS, 1]).astype(np.int32)


def shop(unknown: tuple[int, ...] = ()) -> Any:
    """Item i was bought in 100 - i sessions; the `unknown` are in no catalogue."""
    meta = SimpleNamespace(subclasses=["a", "b", "c"], timezone="UTC")
    dataset = SimpleNamespace(item_ids=np.arange(len(SUBCLASS)), item_subclass=SUBCLASS, meta=meta)
    catalogue = np.setdiff1d(np.arange(len(SUBCLASS)), unknown)
    counts = (100 - np.arange(len(SUBCLASS))).astype(np.float32)
    return SimpleNamespace(dataset=dataset, catalogue=catalogue, counts=counts)


def task(*targets: list[int], time: int = (MONDAY + 1) * DAY) -> Task:
    users = np.arange(len(targets))
    times = np.full(len(targets), time)
    return Task(MONDAY * DAY, users, times, [np.array(target, np.int32) for target in targets])


def promotions(*listings: list[int], visits: list[tuple[int, int, int]]) -> Promotions:
    """Two stores; `listings` are of week 0, stores 0 and 1, then of week 1."""
    offsets = np.cumsum([0, *map(len, listings)])
    user, time, store = np.array(visits, np.int64).T
    none = np.zeros(0, np.int64)
    return Promotions(
        MONDAY, offsets, np.concatenate(listings).astype(np.int32),
        np.ones(int(offsets[-1]), np.uint8), np.zeros((2, len(listings) // 2, len(SUBCLASS))),
        user, time, store, none, none, none.astype(np.float32),
    )  # fmt: skip


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets of one size each, so that sets can be written down."""
    buckets = {name: (low, low) for name, (low, _) in BUCKETS.items()}
    monkeypatch.setattr(module, "BUCKETS", buckets | {"1-10": (4, 4)})


def only(sets: CandidateSets) -> NDArray[np.int64]:
    assert len(sets.items) == 1
    return sets.items[0]


def test_best_sellers_of_the_sessions_own_subclasses_stand_beside_what_was_bought(
    sizes: None,
) -> None:
    found = candidate_sets(shop(), task([5]), None)
    assert only(found["1-10"]).tolist() == [0, 1, 2, 5]
    assert only(found["11-30"]).tolist() == list(range(11))
    assert found["31-100"].positive.tolist() == [5]
    both = only(candidate_sets(shop(), task([39, 79]), None)["31-100"])
    assert len(both) == 31
    assert np.intersect1d(both, [39, 79]).size == 1  # the other one was bought too
    assert 0 in both
    assert SUBCLASS[both].max() <= 1


def test_what_the_store_promotes_in_that_week_comes_first(sizes: None) -> None:
    time = (MONDAY + 1) * DAY
    listed = promotions([30, 31, 70], [20, 21, 22], [1], [1], visits=[(0, time, 0), (1, time, 1)])
    found = candidate_sets(shop(), task([5], [5]), listed)["1-10"]
    # 70 is of another subclass: the third place is the best seller's.
    assert found.items[0].tolist() == [0, 5, 30, 31]
    assert found.items[1].tolist() == [5, 20, 21, 22]


def test_where_the_store_is_unknown_or_the_week_is_not_listed_popularity_fills_up(
    sizes: None,
) -> None:
    time = (MONDAY + 1) * DAY
    elsewhere = promotions([30], [31], visits=[(0, time + 60, 0), (1, time, 0)])
    assert only(candidate_sets(shop(), task([5]), elsewhere)["1-10"]).tolist() == [0, 1, 2, 5]
    later = (MONDAY + 8) * DAY
    unlisted = promotions([30], [31], visits=[(0, later, 0)])
    found = candidate_sets(shop(), task([5], time=later), unlisted)["1-10"]
    assert only(found).tolist() == [0, 1, 2, 5]


def test_every_set_has_its_size_one_positive_and_nothing_else_that_was_bought() -> None:
    rng = np.random.default_rng(3)
    targets = [rng.choice(2 * N_ITEMS, 6, replace=False).tolist() for _ in range(60)]
    asked = task(*targets)
    found = candidate_sets(shop(), asked, None, seed=5)
    assert len(found["1-10"].items) == 60
    for name, (low, high) in BUCKETS.items():
        own = found[name]
        for request, items, positive in zip(own.request, own.items, own.positive, strict=True):
            assert low <= len(items) <= high
            assert np.array_equal(items, np.unique(items))
            assert np.intersect1d(items, asked.targets[request]).tolist() == [positive]
    assert len({len(items) for items in found["11-30"].items}) > 5
    again = candidate_sets(shop(), asked, None, seed=5)
    assert all(map(np.array_equal, found["1-10"].items, again["1-10"].items))
    other = candidate_sets(shop(), asked, None, seed=6)["1-10"].items
    assert not all(map(np.array_equal, found["1-10"].items, other))


def test_items_that_no_catalogue_holds_are_never_asked_for(sizes: None) -> None:
    time = (MONDAY + 1) * DAY
    listed = promotions([0, 30], [], visits=[(0, time, 0), (1, time, 0)])
    past = shop(unknown=(0, 5))
    found = candidate_sets(past, task([5, 6], [5]), listed)
    assert found["1-10"].request.tolist() == [0]  # the other bought nothing that is known
    assert only(found["1-10"]).tolist() == [1, 2, 6, 30]
    assert found["1-10"].positive.tolist() == [6]


def test_too_small_a_subclass_has_no_set_of_that_size(sizes: None) -> None:
    found = candidate_sets(shop(), task([80], [5]), None)
    assert found["1-10"].request.tolist() == [1]
    assert [len(found[name].items) for name in BUCKETS] == [1, 1, 1, 0]
