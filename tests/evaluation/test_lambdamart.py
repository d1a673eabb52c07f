"""Features against values by hand and a plain loop; nothing after the cut is read; trees learn."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from engine.data.clock import DAY_S, Clock
from engine.data.dataset import Dataset
from engine.errors import ConfigError
from engine.evaluation import baselines, metrics
from engine.evaluation.guard import leaks
from engine.evaluation.lambdamart import (
    LambdaMartConfig,
    best,
    collect,
    example_tasks,
    feature_names,
    labels,
    lambdamart_lists,
)
from engine.evaluation.lambdamart_features import Candidates, candidates
from engine.evaluation.lambdamart_promotions import Promotions
from engine.evaluation.lambdamart_shop import Events, Shop
from engine.evaluation.lambdamart_walk import CATEGORY, NEVER, OWN
from engine.evaluation.protocol import Cuts, Task, next_session
from engine.training.history import past

SMALL = LambdaMartConfig(
    example_cuts=2, own=60, popular=30, subclasses=4, rounds=40, min_data_in_leaf=10
)
N_STORES = 3
TUNING = Path(__file__).parents[2] / "benchmarks" / "results" / "lambdamart_tuning.jsonl"
FEW = (0, 18, 36, 1, 19, 2)  # items of three subclasses


@pytest.fixture(scope="module")
def task(dataset: Dataset, cuts: Cuts) -> Task:
    return next_session(dataset, cuts.test, cuts.end)


@pytest.fixture(scope="module")
def promotions(dataset: Dataset) -> Promotions:
    """Announcements by chance, of every week that the shop was open."""
    rng = np.random.default_rng(0)
    n_items = len(dataset.item_ids)
    n_weeks = len(dataset.signals) // 7 + 1
    shown = rng.random((n_weeks * N_STORES, n_items)) < 0.2
    listing, items = np.nonzero(shown)
    owner = np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.event_offsets))
    return Promotions(
        first_day=dataset.meta.first_day,
        offsets=np.searchsorted(listing, np.arange(n_weeks * N_STORES + 1)).astype(np.int64),
        items=items.astype(np.int32),
        flags=rng.integers(1, 4, len(items)).astype(np.uint8),
        shares=rng.random((2, n_weeks, n_items)).astype(np.float32),
        visit_user=owner,
        visit_time=dataset.event_time,
        visit_store=rng.integers(0, N_STORES, len(owner)),
        price_item=dataset.event_item.astype(np.int64),
        price_time=dataset.event_time,
        price=rng.random(len(owner)).astype(np.float32),
    )


def of_one_user(dataset: Dataset, bought: Sequence[tuple[int, int]]) -> Dataset:
    """The shop with one customer who bought (day, item), at noon, and everyone else nothing."""
    clock = Clock(dataset.meta.timezone)
    bought = sorted(set(bought))
    days = np.array([day for day, _ in bought], np.int64)
    noon = [clock.start_of_day(dataset.meta.first_day + day) + DAY_S // 2 for day in days.tolist()]
    n = len(bought)
    return replace(
        dataset,
        event_offsets=np.append(0, np.full(len(dataset.user_ids), n)).astype(np.int64),
        event_item=np.array([item for _, item in bought], np.int32),
        event_time=np.array(noon, np.int64),
        event_type=np.zeros(n, np.int32),
        event_session=np.unique(days, return_inverse=True)[1].astype(np.int32),
        event_outcome=np.zeros((n, len(dataset.meta.outcomes)), bool),
    )


def noon_of(dataset: Dataset, day: int) -> int:
    return Clock(dataset.meta.timezone).start_of_day(dataset.meta.first_day + day) + DAY_S // 2


def asked(dataset: Dataset, day: int) -> Candidates:
    """Candidates of user 0 who comes at noon of `day`."""
    events, now = Events(dataset, ("purchase",)), noon_of(dataset, day)
    shop = Shop.of(events, now, 5, 2)
    who, when = np.zeros(1, np.int64), np.array([now])
    return candidates(events, shop, dataset.user_categorical, now, who, when, 50, 3)


def features_of(found: Candidates, dataset: Dataset, item: int) -> dict[str, float]:
    row = int(np.flatnonzero(found.items == item)[0])
    return dict(zip(feature_names(dataset, None), found.rows[row].tolist(), strict=True))


def test_features_by_hand(dataset: Dataset) -> None:
    """The generated shop opens on a Monday; item 0 and 18 are of one subclass, 1 of another."""
    assert dataset.item_subclass[0] == dataset.item_subclass[18] != dataset.item_subclass[1]
    bought = [(0, 0), (10, 0), (13, 0), (13, 18), (20, 18), (20, 1)]
    found = asked(of_one_user(dataset, bought), 21)
    of = features_of(found, dataset, 0)
    expected = {
        "count": 3,
        "decayed_14d": 2**-1.5 + 2 ** (-11 / 14) + 2 ** (-8 / 14),
        "days_since": 8,
        "sessions_since": 1,
        "own_gap_days": 6.5,
        "last_gap_days": 3,
        "gap_ratio": 9 / 7.5,
        "share_of_sessions": 3 / 4,
        "share_of_own_items": 3 / 6,
        "days_since_first": 21,
        "same_weekday": 1,  # day 0 is a Monday, as is day 21
        "share_same_weekday": 1 / 3,
        "last_3_sessions": 2,
        "subclass_since": 1,  # item 18 on day 20, not the one of the same session
        "subclass_count": 5,
        "share_of_subclass": 5 / 6,
        "days_since_subclass": 1,
        "subclass_gap_days": 20 / 3,
        "items_of_subclass": 2,
        "share_in_subclass": 3 / 5,
        "popularity": 3,
        "buyers": 1,
        "popularity_7d": 0,
        "popularity_28d": 3,
        "share_of_subclass_28d": 3 / 5,
        "sessions": 4,
        "items_per_session": 6 / 4,
        "last_basket": 2,
        "trip_gap_days": 20 / 3,
        "days_since_session": 1,
        "hour": 12,
        "weekday": 0,
    }
    assert {name: of[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def by_loop(dataset: Dataset, item: int, now: int) -> dict[str, float]:
    """Some features of user 0 and an item by plain loops over the events."""
    kind, local = dataset.item_subclass, Clock(dataset.meta.timezone).local
    time, bought, session = dataset.event_time, dataset.event_item, dataset.event_session
    own = [e for e in range(len(bought)) if bought[e] == item]
    same = [e for e in range(len(bought)) if kind[bought[e]] == kind[item]]
    last = own[-1] if own else -1
    weekday = int(local(np.array([now])).weekday[0])
    return {
        "count": len(own),
        "decayed_45d": sum(0.5 ** ((now - time[e]) / DAY_S / 45) for e in own),
        "days_since": (now - time[last]) / DAY_S if own else NEVER,
        "sessions_since": session[-1] - session[last] if own else NEVER,
        "last_gap_days": (time[last] - time[own[-2]]) / DAY_S if len(own) > 1 else NEVER,
        "same_weekday": sum(local(time[[e]]).weekday[0] == weekday for e in own) if own else NEVER,
        "last_3_sessions": sum(session[e] > session[-1] - 3 for e in own) if own else NEVER,
        "subclass_since": sum(session[e] > session[last] for e in same) if own else NEVER,
        "subclass_count": len(same),
        "days_since_subclass": (now - time[same[-1]]) / DAY_S if same else NEVER,
        "items_of_subclass": len({int(bought[e]) for e in same}) if same else NEVER,
        "share_in_subclass": len(own) / len(same) if same else NEVER,
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from(FEW)), min_size=1, max_size=40))
def test_features_of_any_history_equal_a_plain_loop(
    dataset: Dataset, bought: list[tuple[int, int]]
) -> None:
    shop = of_one_user(dataset, bought)
    found = asked(shop, 61)
    assert set(shop.event_item.tolist()) <= set(found.items.tolist())
    assert len(np.unique(found.items)) == len(found.items) == found.sizes[0]
    for item in found.items.tolist():
        expected, got = by_loop(shop, item, noon_of(dataset, 61)), features_of(found, dataset, item)
        assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_what_nobody_bought_before_the_cut_is_no_candidate(dataset: Dataset) -> None:
    early = noon_of(dataset, 25)
    events = Events(dataset, ("purchase",))
    known = np.unique(dataset.event_item[dataset.event_time < early])
    assert len(known) < len(np.unique(dataset.event_item))
    task = next_session(dataset, early, early + 28 * DAY_S)
    wide = SMALL.model_copy(update={"popular": 500, "subclasses": 50, "per_subclass": 50})
    found = collect(dataset, events, task, wide, None)
    np.testing.assert_array_equal(np.unique(found.items), known)


def test_a_request_reads_no_other_requests_history(dataset: Dataset, task: Task) -> None:
    events = Events(dataset, ("purchase",))
    all_of_them = collect(dataset, events, task, SMALL, None)
    one = replace(task, users=task.users[7:8], times=task.times[7:8], targets=task.targets[7:8])
    alone = collect(dataset, events, one, SMALL, None)
    at = slice(int(all_of_them.sizes[:7].sum()), int(all_of_them.sizes[:8].sum()))
    np.testing.assert_array_equal(alone.items, all_of_them.items[at])
    np.testing.assert_array_equal(alone.rows, all_of_them.rows[at])


def test_examples_end_before_the_cut(dataset: Dataset, cuts: Cuts) -> None:
    config = SMALL.model_copy(update={"step_days": 2, "example_cuts": 4})
    tasks = example_tasks(dataset, cuts.test, config)
    assert [round((cuts.test - task.cut) / DAY_S) for task in tasks] == [2, 4, 6, 8]
    for task in tasks:
        assert task.times.min() >= task.cut
        assert task.times.max() < cuts.test


def test_labels_and_lists_by_hand() -> None:
    found = Candidates(
        users=np.array([4, 2]),
        times=np.array([9, 9]),
        sizes=np.array([3, 2]),
        items=np.array([5, 1, 3, 1, 2], np.int32),
        rows=np.zeros((5, 1), np.float32),
    )
    task = Task(8, found.users, found.times, [np.array([3, 9], np.int32), np.array([1], np.int32)])
    assert labels(found, task, 10).tolist() == [False, False, True, True, False]
    lists = best(found, np.array([1.0, 2.0, 2.0, -1.0, 0.0]), 3)
    assert lists.tolist() == [[1, 3, 5], [2, 1, -1]]


@pytest.fixture(scope="module")
def lists(dataset: Dataset, task: Task, promotions: Promotions) -> NDArray[np.int64]:
    made, info = lambdamart_lists(dataset, task, SMALL, promotions=promotions, threads=1)
    assert set(info) == {"minutes", "examples", "importance"}
    assert set(info["importance"]) == set(feature_names(dataset, promotions))
    assert next(iter(info["importance"])) in OWN
    return made


def test_it_beats_popularity(dataset: Dataset, task: Task, lists: NDArray[np.int64]) -> None:
    popular = baselines.popularity(past(dataset, task.cut, 1.0, ("purchase",)), task, 10)
    ours, theirs = (metrics.per_request(rows, task.targets)["ndcg@10"] for rows in (lists, popular))
    assert metrics.paired_difference(ours, theirs)["low"] > 0


def test_it_knows_nothing_of_its_answers(
    dataset: Dataset, task: Task, promotions: Promotions, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = SMALL.model_copy(update={"rounds": 8, "example_cuts": 1})

    def method(dataset: Dataset, task: Task) -> NDArray[np.int64]:
        return lambdamart_lists(dataset, task, few, promotions=promotions, threads=1)[0]

    assert leaks(method, dataset, task) == []
    honest = Shop.of
    later = 10**10
    monkeypatch.setattr(Shop, "of", lambda events, cut, *most: honest(events, later, *most))
    assert leaks(method, dataset, task) == ["session", "future"]


def test_data_without_time_is_refused(dataset: Dataset, task: Task) -> None:
    untimed = replace(dataset, meta=dataset.meta.model_copy(update={"has_time": False}))
    with pytest.raises(ConfigError, match=r"^lambdamart: expected data with times, got data with"):
        lambdamart_lists(untimed, task, SMALL, promotions=None, threads=1)


def test_nothing_to_learn_from_is_refused(dataset: Dataset, task: Task) -> None:
    first = replace(task, cut=int(dataset.event_time.min()))
    with pytest.raises(ConfigError, match=r"a session in the 2 windows before the cut \d+ and"):
        lambdamart_lists(dataset, first, SMALL, promotions=None, threads=1)


def test_promotions_of_another_catalogue_are_refused(
    dataset: Dataset, task: Task, promotions: Promotions
) -> None:
    others = replace(promotions, shares=promotions.shares[:, :, 1:])
    with pytest.raises(
        ConfigError, match=r"promotions of the dataset's 120 items, got some of 119"
    ):
        lambdamart_lists(dataset, task, SMALL, promotions=others, threads=1)


def test_an_unknown_event_type_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigError, match=r"event types \['purchase'\], got also \['look'\]$"):
        Events(dataset, ("purchase", "look"))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"leaves": 3}, "Extra inputs are not permitted"),
        ({"event_types": ()}, "at least 1 item"),
        ({"feature_fraction": 1.5}, "less than or equal to 1"),
        ({"num_leaves": 1}, "greater than or equal to 2"),
    ],
)
def test_a_wrong_configuration_is_refused(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        LambdaMartConfig.model_validate(wrong)


def test_the_defaults_are_the_best_of_what_was_tried() -> None:
    tried = [json.loads(line) for line in TUNING.read_text().splitlines()]
    first = max(tried, key=lambda row: row["validation"]["ndcg@10"] + row["earlier"]["ndcg@10"])
    assert LambdaMartConfig.model_validate(first["setting"]) == LambdaMartConfig()


def test_own_and_category_have_no_name_twice() -> None:
    assert len({*OWN, *CATEGORY}) == len(OWN) + len(CATEGORY) == 24
