"""Leaks of every kind are planted in a method that is honest otherwise, and each is caught."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.data.dataset import Dataset
from engine.errors import StarsError
from engine.evaluation import baselines
from engine.evaluation.guard import Method, check, leaks, order_tells
from engine.evaluation.protocol import Cuts, Task, next_session
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request
from engine.training.history import past

K = 10
Lists = NDArray[np.int64]


@pytest.fixture(scope="module")
def task(dataset: Dataset, cuts: Cuts) -> Task:
    return next_session(dataset, cuts.test, cuts.end)


def honest(dataset: Dataset, task: Task) -> Lists:
    history = past(dataset, task.cut, 1.0, ("purchase",))
    return baselines.personal(history, task, K, baselines.HALF_LIFE_DAYS)


def first_of_the_session(dataset: Dataset, task: Task, reach_s: int = 0) -> Lists:
    """The item at the request's very moment, or some time after it, comes first."""
    lists = honest(dataset, task)
    for row, (user, time) in enumerate(zip(task.users, task.times, strict=True)):
        own = slice(*dataset.event_offsets[user : user + 2])
        at = np.searchsorted(dataset.event_time[own], time + reach_s)
        if at < len(dataset.event_item[own]):
            lists[row, 0] = dataset.event_item[own][at]
    return lists


def next_days_item(dataset: Dataset, task: Task) -> Lists:
    return first_of_the_session(dataset, task, 24 * 3600)


def popular_of_the_whole_year(dataset: Dataset, task: Task) -> Lists:
    counts = np.bincount(dataset.event_item, minlength=len(dataset.item_ids))
    return np.tile(np.argsort(-counts, kind="stable")[:K], (len(task.users), 1))


def what_a_coupon_was_redeemed_for(dataset: Dataset, task: Task) -> Lists:
    """The first item of the session's day that came with a coupon, if any, comes first."""
    lists = honest(dataset, task)
    came = dataset.event_outcome[:, dataset.meta.outcomes.index("coupon")]
    for row, (user, time) in enumerate(zip(task.users, task.times, strict=True)):
        own = slice(*dataset.event_offsets[user : user + 2])
        day = np.flatnonzero((dataset.event_time[own] == time) & came[own])
        if len(day):
            lists[row, 0] = dataset.event_item[own][day[0]]
    return lists


@pytest.mark.parametrize(
    ("method", "kinds"),
    [
        (honest, []),
        (first_of_the_session, ["session"]),
        (next_days_item, ["future"]),
        (popular_of_the_whole_year, ["session", "future"]),
        (what_a_coupon_was_redeemed_for, ["session", "outcome"]),
    ],
)
def test_what_is_planted_is_caught(
    dataset: Dataset, task: Task, method: Method, kinds: list[str]
) -> None:
    assert leaks(method, dataset, task) == kinds


def test_what_is_served_knows_nothing_of_its_answers(
    dataset: Dataset, task: Task, bundle: Path
) -> None:
    recommender = Recommender(Bundle.open(bundle))

    def served(dataset: Dataset, task: Task, reach_s: int = 0) -> Lists:
        """Live answers to the events that the dataset has before each request, or a while after."""
        rows = []
        for user, time in zip(task.users[:16].tolist(), task.times[:16].tolist(), strict=True):
            own = slice(*dataset.event_offsets[user : user + 2])
            known = slice(0, int(np.searchsorted(dataset.event_time[own], time + reach_s)))
            history = [getattr(dataset, f"event_{name}")[own][known] for name in ("type", "time")]
            asked = Request(
                None, dataset.item_ids[dataset.event_item[own][known]], *history, None, K, "next",
                "allow", None, time + reach_s, False,
            )  # fmt: skip
            (reply,) = recommender.recommend([asked])
            assert isinstance(reply, Reply), reply
            rows.append(reply.item_ids)
        return np.stack(rows)

    check(served, dataset, task, "next")
    assert "session" in leaks(lambda data, task: served(data, task, 1), dataset, task)


def test_the_refusal_names_method_and_leak(dataset: Dataset, task: Task) -> None:
    with pytest.raises(StarsError, match=r"evaluation: theirs: .* change with: session$"):
        check(first_of_the_session, dataset, task, "theirs")


def test_baskets_sorted_by_id_are_seen(dataset: Dataset, task: Task) -> None:
    assert not order_tells(dataset)
    user = np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.event_offsets))
    order = np.lexsort((dataset.event_item, dataset.event_time, user))
    columns = ("event_item", "event_time", "event_type", "event_session", "event_outcome")
    by_id = replace(dataset, **{name: getattr(dataset, name)[order] for name in columns})
    assert leaks(honest, by_id, task) == ["order"]


def test_a_dataset_without_baskets_has_no_order(dataset: Dataset) -> None:
    alone = replace(dataset, event_time=np.arange(len(dataset.event_item), dtype=np.int64))
    assert not order_tells(alone)
