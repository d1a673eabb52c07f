from pathlib import Path

import numpy as np
import pytest

from engine.data.clock import DAY_S, Clock
from engine.data.dataset import Dataset
from engine.evaluation.baselines import personal, popularity
from engine.evaluation.protocol import Task, last_cuts, next_session, window_after, window_before
from engine.training.history import Past, past
from tests.tiny import cut_of, shop_of, tiny_shop, without_later

NEW_YORK = Clock("America/New_York")
FIRST = 17_300  # 2017-05-14, a Sunday
CUT = NEW_YORK.start_of_day(FIRST + 20)


def on(day: int, hour: int = 12) -> int:
    return NEW_YORK.start_of_day(FIRST + day) + hour * 3600


EVENTS = [
    # anna: two sessions after the cut, the first a basket of three in two visits.
    ("anna", 1, on(3)), ("anna", 2, on(10)), ("anna", 1, on(10)), ("anna", 3, on(12)),
    ("anna", 4, on(21, 9)), ("anna", 1, on(21, 23)), ("anna", 4, on(21, 23)), ("anna", 5, on(25)),
    # bert: first buys after the cut.
    ("bert", 6, on(22)),
    # cora: only before it.
    ("cora", 1, on(2)), ("cora", 3, on(2)),
    # dora: comes again when the window is over.
    ("dora", 3, on(1)), ("dora", 7, on(48)),
    # emil: on the first and in the last second of the window.
    ("emil", 3, on(15)), ("emil", 0, on(20, 0)), ("emil", 2, on(48, 0) - 1),
]  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path) -> Dataset:
    return shop_of(tmp_path, EVENTS, items=9)


def names(shop: Dataset, task: Task) -> list[str]:
    return [name.decode() for name in shop.user_ids[task.users]]


def test_each_users_first_session_from_the_cut_on(shop: Dataset) -> None:
    task = next_session(shop, CUT, on(48, 0))
    assert names(shop, task) == ["anna", "emil"]
    assert task.times.tolist() == [on(21, 9), on(20, 0)]
    assert [items.tolist() for items in task.targets] == [[1, 4], [0]]
    assert task.cut == CUT


def test_the_window_is_half_open(shop: Dataset) -> None:
    assert names(shop, next_session(shop, on(20, 0) + 1, on(48, 0))) == ["anna", "emil"]
    assert names(shop, next_session(shop, on(22), on(48, 0) - 1)) == ["anna"]
    assert names(shop, next_session(shop, on(22), on(48))) == ["anna", "bert", "emil"][::2]
    assert names(shop, next_session(shop, on(26), on(49))) == ["dora", "emil"]
    assert names(shop, next_session(shop, on(49), on(60))) == []


def test_a_session_under_way_at_the_cut_is_no_target(shop: Dataset) -> None:
    """Part of it is known: the first session that starts in the window is asked for."""
    task = next_session(shop, on(21, 10), on(48, 0))
    assert names(shop, task) == ["anna", "emil"]
    assert task.times.tolist() == [on(25), on(48, 0) - 1]
    assert [items.tolist() for items in task.targets] == [[5], [2]]


def test_the_last_days_are_the_test_those_before_validation() -> None:
    shop = tiny_shop()
    last = int(NEW_YORK.day(shop.event_time.max()[None])[0])
    cuts = last_cuts(shop)
    assert (cuts.validation, cuts.test, cuts.end) == tuple(
        NEW_YORK.start_of_day(last + 1 - days) for days in (56, 28, 0)
    )
    assert cuts.end > shop.event_time.max() >= cuts.end - DAY_S
    assert window_after(shop, cuts.validation) == cuts.test


def test_a_day_of_23_hours_is_still_a_day() -> None:
    start = NEW_YORK.start_of_day(17_237 - 9)  # 2017-03-12 has 23
    end = window_after(tiny_shop(), start)
    assert end - start == (28 * 24 - 1) * 3600
    assert window_before(tiny_shop(), end) == start
    assert window_after(tiny_shop(), start + 5 * 3600) == end, "whole local days"


def test_without_time_the_windows_are_tenths() -> None:
    shop = tiny_shop(with_time=False)
    cuts = last_cuts(shop)
    times = shop.event_time
    assert cuts.end == times.max() + 1 == window_after(shop, cuts.test)
    assert np.mean(times >= cuts.test) == pytest.approx(0.1, abs=0.01)
    before = times[times < cuts.test]
    assert np.mean(before >= cuts.validation) == pytest.approx(0.1, abs=0.01)
    task = next_session(shop, cuts.test, cuts.end)
    assert len(task.users) > 5
    assert all(len(items) == 1 for items in task.targets)


def made(shop: Dataset) -> tuple[Past, Task]:
    return past(shop, CUT, 1.0, ("purchase",)), next_session(shop, CUT, on(48, 0))


def test_popularity_counts_sessions_and_breaks_ties_by_index(shop: Dataset) -> None:
    before, task = made(shop)
    # Bought before the cut in sessions: 3 four times, 1 three times, 2 once; then by index.
    assert popularity(before, task, 5).tolist() == [[3, 1, 2, 0, 4]] * 2


def test_personal_frequency_is_filled_up_by_popularity(shop: Dataset) -> None:
    before, task = made(shop)
    lists = personal(before, task, 5, None)
    assert lists.tolist() == [[1, 2, 3, 0, 4], [3, 1, 2, 0, 4]]


def test_recency_decay_turns_the_order(shop: Dataset) -> None:
    before, task = made(shop)
    # anna's 3 is nine days old, her two 1s eleven and eighteen, her 2 eleven.
    age = {3: [9], 1: [11, 18], 2: [11]}
    for half_life in (1.0, 3.0, 90.0):
        at = {
            item: sum(0.5 ** ((on(21, 9) - on(21 - days)) / DAY_S / half_life) for days in ages)
            for item, ages in age.items()
        }
        expected = sorted(at, key=lambda item: -at[item])
        assert personal(before, task, 3, half_life)[0].tolist() == expected
    assert personal(before, task, 3, 1.0)[0].tolist() == [3, 1, 2]
    assert personal(before, task, 3, 90.0)[0].tolist() == [1, 3, 2]


def test_a_catalogue_smaller_than_the_list_is_padded(shop: Dataset) -> None:
    before, task = made(shop)
    assert popularity(before, task, 12).tolist() == [[3, 1, 2, 0, 4, 5, 6, 7, 8, -1, -1, -1]] * 2
    lists = personal(before, task, 12, 90.0)
    assert lists.shape == (2, 12)
    for row in lists.tolist():
        assert sorted(row) == [-1, -1, -1, *range(9)]
        assert row[9:] == [-1, -1, -1]


def test_no_requests_give_empty_lists(shop: Dataset) -> None:
    before = past(shop, on(49), 1.0, ("purchase",))
    task = next_session(shop, on(49), on(60))
    assert popularity(before, task, 5).shape == (0, 5)
    assert personal(before, task, 5, 90.0).shape == (0, 5)


def test_a_later_event_changes_no_baseline() -> None:
    shop = tiny_shop()
    cut = cut_of(shop, 0.7)
    task = next_session(shop, cut, cut + 28 * DAY_S)
    assert len(task.users) > 10
    for half_life in (None, 90.0):
        full, blind = (
            personal(past(dataset, cut, 1.0, ("purchase",)), task, 10, half_life)
            for dataset in (shop, without_later(shop, cut))
        )
        np.testing.assert_array_equal(full, blind)
        assert all(len(set(row)) == 10 for row in full.tolist())
