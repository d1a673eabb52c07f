import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.data.clock import DAY_S, Clock
from engine.features import (
    RECENCY_BUCKETS,
    Calendar,
    History,
    UserFeatures,
    encode_inputs,
    recency_buckets,
    window_start,
)

NEW_YORK = Clock("America/New_York")
FIRST_DAY = 17_000  # 2016-07-18


def calendar(has_time: bool = True, days: int = 3) -> Calendar:
    signals = np.arange(1, 2 * days + 1, dtype=np.float32).reshape(days, 2)
    return Calendar(NEW_YORK, has_time, FIRST_DAY, signals)


@given(st.integers(0, 5000))
def test_window_start_is_a_function_of_the_count(count: int) -> None:
    start = window_start(count)
    if count <= 200:
        assert start == 0
    else:
        assert start == 50 * np.ceil((count - 200) / 50)
        assert 151 <= count - start <= 200


def test_window_start_at_the_hops() -> None:
    assert [window_start(n) for n in (0, 1, 200, 201, 250, 251, 300, 301)] == [
        0, 0, 0, 50, 50, 100, 100, 150,
    ]  # fmt: skip
    assert [window_start(n, 20, 5) for n in (20, 21, 25, 26)] == [0, 5, 5, 10]


def test_recency_buckets() -> None:
    hours = np.array([0, 0, 0.99, 1, 2.99, 3, 24, 24 * 365, 24 * 36500])
    times = np.cumsum(hours * 3600).astype(np.int64)
    assert recency_buckets(times).tolist() == [0, 1, 1, 2, 2, 3, 5, 14, RECENCY_BUCKETS - 1]
    assert recency_buckets(np.zeros(0, np.int64)).tolist() == []
    assert recency_buckets(np.array([10, 5])).tolist() == [0, 1], "a step back counts as none"


def test_calendar_fields_are_local_across_the_change_to_summer_time() -> None:
    # 2017-03-12 06:59:59 UTC is 01:59:59 in New York; the next second is 03:00:00.
    fields = calendar().fields(np.array([1489301999, 1489302000], np.int64))
    assert fields["hour"].tolist() == [1, 3]
    assert fields["weekday"].tolist() == [6, 6]
    assert fields["week"].tolist() == [10, 10]
    assert fields["day"].tolist() == [17237, 17237]


def test_without_time_no_field_carries_anything() -> None:
    still = calendar(has_time=False)
    times = np.array([[5, 1489301999]], np.int64)
    assert all(not values.any() for values in still.fields(times).values())
    assert set(still.fields(times)) == set(calendar().fields(times))
    assert not still.gap_days(times, times - DAY_S).any()


def test_signals_outside_the_known_days_are_the_mean() -> None:
    days = np.array([[FIRST_DAY - 1, FIRST_DAY], [FIRST_DAY + 2, FIRST_DAY + 3]])
    assert calendar().signals_on(days).tolist() == [[[0, 0], [1, 2]], [[5, 6], [0, 0]]]
    assert calendar(days=0).signals_on(days).shape == (2, 2, 2)
    assert not calendar(days=0).signals_on(days).any()


def test_gap_days_are_never_negative() -> None:
    last = np.array([0, 0, DAY_S])
    gaps = calendar().gap_days(np.array([DAY_S // 2, 3 * DAY_S, 0]), last)
    assert gaps.tolist() == [0.5, 3.0, 0.0]
    assert gaps.dtype == np.float32


def test_unknown_user_features_are_code_0_and_not_known() -> None:
    users = UserFeatures(
        np.array([[0, 2]], np.int32), np.array([[np.nan, -1.5]], np.float32)
    ).inputs()
    assert users["user_categorical"].tolist() == [[0, 2]]
    assert users["user_categorical"].dtype == np.int64
    assert users["user_numeric"].tolist() == [[0.0, -1.5]]
    assert users["user_known"].tolist() == [[0.0, 1.0]]


def history(n: int, seed: int = 0) -> History:
    rng = np.random.default_rng(seed)
    start = NEW_YORK.start_of_day(FIRST_DAY)
    return History(
        rng.integers(0, 9, n).astype(np.int32),
        start + np.cumsum(rng.integers(0, 3 * 3600, n)),
        rng.integers(0, 3, n).astype(np.int32),
    )


def inputs_of(histories: list[History], has_time: bool = True) -> dict[str, NDArray]:
    rows = np.arange(9 * 4, dtype=np.float32).reshape(9, 4)
    users = UserFeatures(
        np.zeros((len(histories), 1), np.int32), np.zeros((len(histories), 1), np.float32)
    )
    return dict(encode_inputs(histories, users, rows, calendar(has_time), window=20, hop=5))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 57), min_size=1, max_size=5))
def test_encode_inputs_hold_each_users_window(counts: list[int]) -> None:
    histories = [history(n, seed) for seed, n in enumerate(counts)]
    inputs = inputs_of(histories)
    starts = [window_start(n, 20, 5) for n in counts]
    assert inputs["length"].tolist() == [n - s for n, s in zip(counts, starts, strict=True)]
    width = max(1, *inputs["length"].tolist())
    for b, (one, start) in enumerate(zip(histories, starts, strict=True)):
        n = len(one.items) - start
        fields = calendar().fields(one.times)
        expected = {
            **fields,
            "event_type": one.types,
            "recency": recency_buckets(one.times),  # of the whole history, then cut
            "signals": calendar().signals_on(fields["day"]),
            "rows": np.arange(9 * 4).reshape(9, 4)[one.items],
        }
        for name, values in expected.items():
            assert inputs[name].shape[:2] == (len(counts), width), name
            np.testing.assert_array_equal(inputs[name][b, :n], values[start:], err_msg=name)
            if name not in ("rows", "signals"):
                assert inputs[name].dtype == np.int64, name


def test_encode_inputs_without_time() -> None:
    inputs = inputs_of([history(30), history(4)], has_time=False)
    for name in ("hour", "weekday", "week", "day", "recency"):
        assert not inputs[name].any(), name
    assert inputs["event_type"].any()


@pytest.mark.parametrize("n", [21, 40])
def test_the_first_event_of_a_later_window_knows_its_gap(n: int) -> None:
    one = history(n)
    start = window_start(n, 20, 5)
    assert inputs_of([one])["recency"][0, 0] == recency_buckets(one.times)[start] > 0
