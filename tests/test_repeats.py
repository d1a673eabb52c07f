from collections import defaultdict
from dataclasses import replace
from math import log, log1p

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data.clock import DAY_S
from engine.repeats import (
    FEATURES,
    RepeatItemStatistics,
    RepeatState,
    repeat_features,
    repeat_history,
)

N_ITEMS = 6
HALF_LIVES = (14.0, 45.0, 120.0)
Purchase = tuple[int, int, int]  # item, unix seconds, session


@st.composite
def purchases(draw: st.DrawFn, max_size: int = 25) -> list[Purchase]:
    """One user's purchases in time order; items repeat inside and across sessions."""
    made, time, session = [], 1_500_000_000, 0
    for _ in range(draw(st.integers(0, max_size))):
        if draw(st.booleans()):
            session += draw(st.integers(1, 3))  # a session without a purchase leaves a gap
            time += draw(st.integers(1, 60 * DAY_S))
        time += draw(st.sampled_from([0, 0, 60, 5000]))
        made.append((draw(st.integers(0, N_ITEMS - 1)), time, session))
    return made


def statistics() -> RepeatItemStatistics:
    """Sums over many users, whoever is asked about among them."""
    rng = np.random.default_rng(0)
    buyers = rng.integers(40, 60, N_ITEMS)
    return RepeatItemStatistics(
        count=(buyers + rng.integers(100, 200, N_ITEMS)).astype(np.float32),
        buyers=buyers.astype(np.float32),
        again=rng.integers(30, 40, N_ITEMS).astype(np.float32),
        span_days=rng.integers(9000, 10_000, N_ITEMS).astype(np.float32),
        subclass=np.array([0, 0, 1, 1, 1, 2], np.int32),
    )


def usual(item: int, n: int, span_days: float) -> tuple[float, float, float]:
    """Rate, gap and log share of an item among all but a user who bought it n times."""
    all_of = statistics()
    count, buyers, again, span = (
        float(getattr(all_of, name)[item]) for name in ("count", "buyers", "again", "span_days")
    )
    mean_rate = float(all_of.again.sum() / all_of.buyers.sum())
    mean_gap = float(all_of.span_days.sum() / (all_of.count.sum() - all_of.buyers.sum()))
    others = buyers - (n > 0)
    return (
        (again - (n > 1) + 5 * mean_rate) / (others + 5),
        (span - span_days + 5 * mean_gap) / (count - n - others + 5),
        log((count - n + 1) / (float(all_of.count.sum()) + N_ITEMS)),
    )


def states_of(made: list[Purchase], session: int, last_time: int) -> RepeatState:
    item, time, ordinal = (np.array(column) for column in (zip(*made, strict=True)))
    history = repeat_history(item.astype(np.int32), time.astype(np.int64), ordinal.astype(np.int32))
    return history.after(session, last_time)


def times_by_item(made: list[Purchase], session: int) -> dict[int, list[tuple[int, int]]]:
    """item -> (time, session) of the first purchase in each session up to `session`."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for item, time, ordinal in made:
        if ordinal <= session and (not found[item] or found[item][-1][1] != ordinal):
            found[item].append((time, ordinal))
    return {item: times for item, times in found.items() if times}


@settings(deadline=None, max_examples=150)
@given(purchases(), st.integers(-1, 40))
def test_state_equals_counting(made: list[Purchase], session: int) -> None:
    if not made:
        made = [(0, 0, 99)]  # bought later only
    state = states_of(made, session, 123)
    bought = times_by_item(made, session)
    assert state.item.tolist() == sorted(bought)
    assert (state.n_sessions, state.last_session_time) == (session + 1, 123)
    for row, item in enumerate(sorted(bought)):
        times = [time for time, _ in bought[item]]
        assert state.count[row] == len(times)
        assert state.first_time[row] == times[0]
        assert state.last_time[row] == times[-1]
        assert state.last_session[row] == bought[item][-1][1]
        for column, half_life in enumerate(HALF_LIVES):
            faded = sum(0.5 ** ((times[-1] - t) / DAY_S / half_life) for t in times)
            assert state.decayed[row, column] == pytest.approx(faded, rel=1e-5)


@settings(deadline=None, max_examples=100)
@given(purchases(), st.integers(-1, 40))
def test_a_state_knows_nothing_of_later_sessions(made: list[Purchase], session: int) -> None:
    made = [*made, (0, 2_000_000_000, 99)]
    early = [purchase for purchase in made if purchase[2] <= session]
    full = states_of(made, session, 5)
    if not early:
        assert all(len(getattr(full, name)) == 0 for name in RepeatState.FIELDS)
        return
    rebuilt = states_of(early, session, 5)
    for name in RepeatState.FIELDS:
        ours, theirs = getattr(full, name), getattr(rebuilt, name)
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
        assert ours.dtype == theirs.dtype


@settings(deadline=None, max_examples=60)
@given(purchases().filter(bool), st.integers(0, 40))
def test_a_state_says_what_the_statistics_hold_of_the_user(
    made: list[Purchase], session: int
) -> None:
    state = states_of(made, session, 5)
    counted = times_by_item(made, made[-1][2])
    for item, count, span in zip(state.item, state.all_count, state.all_span, strict=True):
        times = [time for time, _ in counted[int(item)]]
        assert count == len(times)
        assert span == pytest.approx(times[-1] - times[0], rel=1e-6)


def test_no_purchase_gives_no_state() -> None:
    nothing = np.zeros(0, np.int32)
    state = repeat_history(nothing, nothing.astype(np.int64), nothing).after(3, 7)
    assert state.item.shape == (0,)
    assert state.decayed.shape == (0, 3)
    assert state.n_sessions == 4


def naive_features(
    bought: dict[int, list[tuple[int, int]]],
    counted: dict[int, list[tuple[int, int]]],
    n_sessions: int,
    last_s: int,
    now_s: int,
) -> list[list[float]]:
    """One row an item, in the order of FEATURES, each as its name says.

    Args:
        bought: what the user bought before the request; counted: as the statistics know it.
    """
    subclass, rows = statistics().subclass, []
    total = sum(len(times) for times in bought.values())
    session_gap = max(last_s - min(t[0][0] for t in bought.values()), 0) / DAY_S
    session_gap /= max(n_sessions - 1, 1)
    since_session = max((now_s - last_s) / DAY_S, 0)
    faded_total = [
        sum(0.5 ** (max(now_s - t[-1][0], 0) / DAY_S / h) * 0.5 ** ((t[-1][0] - s) / DAY_S / h)
            for t in bought.values() for s, _ in t)
        for h in HALF_LIVES
    ]  # fmt: skip
    for item in sorted(bought):
        times = [time for time, _ in bought[item]]
        count, days = len(times), max((now_s - times[-1]) / DAY_S, 0)
        alike = [i for i in bought if subclass[i] == subclass[item]]
        known = [time for time, _ in counted.get(item, [])]
        rebuy_rate, usual_gap, log_p = usual(
            item, len(known), (known[-1] - known[0]) / DAY_S if known else 0.0
        )
        gap = (times[-1] - times[0]) / DAY_S / (count - 1) if count > 1 else usual_gap
        since = n_sessions - 1 - bought[item][-1][1]
        faded = [
            sum(0.5 ** ((times[-1] - t) / DAY_S / half_life) for t in times)
            * 0.5 ** (days / half_life)
            for half_life in HALF_LIVES
        ]
        last_alike = max(bought[i][-1][0] for i in alike)
        first_alike = min(bought[i][0][0] for i in alike)
        n_alike = sum(len(bought[i]) for i in alike)
        alike_gap = (last_alike - first_alike) / DAY_S / max(n_alike - 1, 1)
        days_alike = max((now_s - last_alike) / DAY_S, 0)
        faded_alike = sum(
            sum(0.5 ** ((bought[i][-1][0] - t) / DAY_S / 45) for t, _ in bought[i])
            * 0.5 ** (max((now_s - bought[i][-1][0]) / DAY_S, 0) / 45)
            for i in alike
        )
        named = {
            "log_count": log1p(count),
            "log_decayed_14d": log1p(faded[0]),
            "log_decayed_45d": log1p(faded[1]),
            "log_decayed_120d": log1p(faded[2]),
            "log_days_since": log1p(days),
            "log_sessions_since": log1p(since),
            "share_of_sessions": count / n_sessions,
            "log_gap_ratio": log((days + 1) / (gap + 1)),
            "has_own_gap": float(count > 1),
            "in_last_session": float(since == 0),
            "rebuy_rate": rebuy_rate,
            "log_popularity": log_p,
            "log_item_gap_days": log1p(usual_gap),
            "log_days_since_session": log1p(max((now_s - last_s) / DAY_S, 0)),
            "log_sessions": log1p(n_sessions),
            "log_items_per_session": log1p(total / n_sessions),
            "share_of_subclass": count / n_alike,
            "log_days_since_subclass": log1p(days_alike),
            "log_subclass_decayed_45d": log1p(faded_alike),
            "log_subclass_gap_ratio": log((days_alike + 1) / (alike_gap + 1)),
            "log_others_since": log1p(sum(bought[i][-1][0] > times[-1] for i in alike)),
            "log_own_gap_days": log1p(gap if count > 1 else 0),
            "log_days_since_first": log1p(max((now_s - times[0]) / DAY_S, 0)),
            "log_days_per_session": log1p(session_gap),
            "log_session_gap_ratio": log((since_session + 0.5) / (session_gap + 0.5)),
            "log_weekly_rate": log(7 * count / (max((now_s - times[0]) / DAY_S, 0) + 14)),
            "log_share_14d": log1p(100 * faded[0] / faded_total[0]),
            "log_share_45d": log1p(100 * faded[1] / faded_total[1]),
            "log_share_120d": log1p(100 * faded[2] / faded_total[2]),
            "log_share_of_purchases": log1p(100 * count / total),
        }
        rows.append([named[name] for name in FEATURES])
    return rows


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(purchases(max_size=12).filter(bool), st.integers(0, 3), st.booleans()),
        min_size=1,
        max_size=4,
    ),
    st.integers(-3 * DAY_S, 90 * DAY_S),
)
def test_features_equal_counting(
    users: list[tuple[list[Purchase], int, bool]], wait_s: int
) -> None:
    states, expected, nows = [], [], []
    for made, later, served in users:
        session = max(made[-1][2] - later, made[0][2])  # what follows is counted, not bought
        last_s = max(time for _, time, ordinal in made if ordinal <= session) + 7000
        state, bought = states_of(made, session, last_s), times_by_item(made, session)
        counted = times_by_item(made, made[-1][2])
        if served:  # the statistics know no more than the state itself
            state, counted = replace(state, all_count=None, all_span=None), bought
        states.append(state)
        nows.append(last_s + wait_s)  # before the last session, where a request says so
        expected += naive_features(bought, counted, session + 1, last_s, nows[-1])
    features = repeat_features(states, statistics(), np.array(nows, np.int64))
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, np.array(expected), rtol=2e-4, atol=2e-5)


def test_what_a_user_buys_later_moves_none_of_the_users_own_features() -> None:
    """The statistics hold the answer; without the user's own purchases they do not tell it."""
    early = [(1, 1_500_000_000, 0), (2, 1_500_000_000, 0), (2, 1_500_400_000, 1)]
    later = [*early, (1, 1_500_900_000, 2), (2, 1_500_900_000, 2)]
    others = statistics()
    features = []
    for made in (early, later):
        mine = times_by_item(made, 9)
        own = np.zeros((4, N_ITEMS), np.float32)
        for item, times in mine.items():
            span = (times[-1][0] - times[0][0]) / DAY_S
            own[:, item] = (len(times), 1, len(times) > 1, span)
        with_me = replace(
            others,
            count=others.count + own[0],
            buyers=others.buyers + own[1],
            again=others.again + own[2],
            span_days=others.span_days + own[3],
        )
        state = states_of(made, 1, 1_500_400_000)
        features.append(repeat_features([state], with_me, np.array([1_500_900_000])))
    # Only the catalogue's means, over all users, can still move a little.
    np.testing.assert_allclose(features[0], features[1], rtol=2e-2)


def test_a_user_without_repeats_between_others_changes_nothing() -> None:
    made = [(1, 1_500_000_000, 0), (2, 1_500_400_000, 1), (1, 1_500_400_000, 1)]
    one = states_of(made, 1, 1_500_400_000)
    empty = states_of([(0, 0, 9)], 1, 1_500_400_000)
    now = 1_501_000_000
    alone = repeat_features([one], statistics(), np.array([now]))
    among = repeat_features([one, empty, one], statistics(), np.array([now, now + 9, now]))
    np.testing.assert_array_equal(among, np.concatenate([alone, alone]))
    nothing = repeat_features([empty], statistics(), np.array([now]))
    assert nothing.shape == (0, len(FEATURES))


def test_a_store_that_knows_more_than_the_statistics_gives_numbers() -> None:
    none = np.zeros(N_ITEMS, np.float32)
    unknown = RepeatItemStatistics(none, none, none, none, np.zeros(N_ITEMS, np.int32))
    items, days = np.array([2, 2, 3], np.int32), DAY_S * np.array([0, 9, 9])
    state = repeat_history(items, days, np.array([0, 1, 1], np.int32)).after(1, 9 * DAY_S)
    assert np.isfinite(repeat_features([state], unknown, np.array([20 * DAY_S]))).all()


def test_what_is_known_of_the_items_stands_behind_the_features() -> None:
    made = [(1, 1_500_000_000, 0), (2, 1_500_400_000, 1)]
    states = [states_of(made, 0, 1_500_000_000), states_of(made, 1, 1_500_400_000)]
    now = np.array([1_500_400_000, 1_500_500_000])
    beside = np.array([[0, 1], [2, 3], [4, 5]], np.float32)
    features = repeat_features(states, statistics(), now, beside)
    np.testing.assert_array_equal(features[:, :-2], repeat_features(states, statistics(), now))
    np.testing.assert_array_equal(features[:, -2:], beside)
