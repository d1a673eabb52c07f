"""Repeat purchases of one user: state, and the features that the repeat network reads.

One row describes one item of the user's whole history as it stood after a session. Training reads
the rows of every session, serving the last one of each item: the same code makes both, so that a
served feature equals the trained one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled
from .data.clock import DAY_S

_PRIOR = 5.0  # observations that the catalogue's mean counts as
_RATE_DAYS = 14.0  # days that a rate leans on beside those since the first purchase
HALF_LIVES_DAYS = np.array([14.0, 45.0, 120.0], np.float32)
FEATURES = (
    "log_count",
    "log_decayed_14d",
    "log_decayed_45d",
    "log_decayed_120d",
    "log_days_since",
    "log_sessions_since",
    "share_of_sessions",
    "log_gap_ratio",
    "has_own_gap",
    "in_last_session",
    "rebuy_rate",
    "log_popularity",
    "log_item_gap_days",
    "log_days_since_session",
    "log_sessions",
    "log_items_per_session",
    "share_of_subclass",
    "log_days_since_subclass",
    "log_subclass_decayed_45d",
    "log_subclass_gap_ratio",
    "log_others_since",
    "log_own_gap_days",
    "log_days_since_first",
    "log_days_per_session",
    "log_session_gap_ratio",
    "log_weekly_rate",
    "log_share_14d",
    "log_share_45d",
    "log_share_120d",
    "log_share_of_purchases",
)


@dataclass(frozen=True)
class RepeatState:
    """The repeat items of one user at one moment, one row an item.

    Attributes:
        item: [m] int32 item indices, unique.
        count: [m] float32, sessions in which the item was bought.
        first_time, last_time: [m] int64 unix seconds of the first and the last of them.
        last_session: [m] int32, ordinal of the last one among the user's sessions.
        decayed: [m, 3] float32, the count decayed by `HALF_LIVES_DAYS`, as of `last_time`.
        n_sessions: the user's sessions so far.
        last_session_time: unix seconds of the last event so far.
        all_count, all_span: [m] float32, purchases of the item and seconds from the first to the
            last as the catalogue's statistics hold them of this user. None: as here. In training
            they know what followed the state, in serving nothing of the request's events.
    """

    item: NDArray[np.int32]
    count: NDArray[np.float32]
    first_time: NDArray[np.int64]
    last_time: NDArray[np.int64]
    last_session: NDArray[np.int32]
    decayed: NDArray[np.float32]
    n_sessions: int
    last_session_time: int
    all_count: NDArray[np.float32] | None = None
    all_span: NDArray[np.float32] | None = None

    FIELDS: ClassVar = ("item", "count", "first_time", "last_time", "last_session", "decayed")


@dataclass(frozen=True)
class RepeatHistory:
    """Every state of one user's items: row r holds from `session[r]` until before `until[r]`.

    Attributes are those of `RepeatState`, rows by (item, session); `until` is the ordinal of the
    next session with the same item, or the largest int32; `all_count` and `all_span` are those of
    the item's last row.
    """

    item: NDArray[np.int32]
    count: NDArray[np.float32]
    first_time: NDArray[np.int64]
    last_time: NDArray[np.int64]
    last_session: NDArray[np.int32]
    decayed: NDArray[np.float32]
    until: NDArray[np.int32]
    all_count: NDArray[np.float32]
    all_span: NDArray[np.float32]

    def after(self, session: int, last_session_time: int) -> RepeatState:
        """State after the session with ordinal `session`, which ended at the given time."""
        rows = np.flatnonzero((self.last_session <= session) & (self.until > session))
        fields = {name: getattr(self, name)[rows] for name in RepeatState.FIELDS}
        return RepeatState(
            **fields,
            n_sessions=session + 1,
            last_session_time=last_session_time,
            all_count=self.all_count[rows],
            all_span=self.all_span[rows],
        )


def repeat_history(
    items: NDArray[np.int32], times: NDArray[np.int64], sessions: NDArray[np.int32]
) -> RepeatHistory:
    """States of one user's events of a repeat type.

    Args:
        items: [n] int32 item indices, oldest event first.
        times: [n] int64 unix seconds.
        sessions: [n] int32 session ordinals, not decreasing.
    """
    order = np.lexsort((times, sessions, items))
    items, times, sessions = items[order], times[order], sessions[order]
    starts_item = np.ones(len(items), bool)
    starts_item[1:] = items[1:] != items[:-1]
    keep = starts_item.copy()
    keep[1:] |= sessions[1:] != sessions[:-1]  # one purchase a session, the earliest
    items, times, sessions, starts_item = (x[keep] for x in (items, times, sessions, starts_item))

    n = len(items)
    group_start = np.maximum.accumulate(np.where(starts_item, np.arange(n), 0))
    rank = np.arange(n) - group_start
    decayed = np.ones((n, len(HALF_LIVES_DAYS)), np.float32)
    if n:
        by_rank = np.argsort(rank, kind="stable")
        bounds = np.searchsorted(rank[by_rank], np.arange(1, rank.max() + 2))
        for low, high in pairwise(bounds.tolist()):
            row = by_rank[low:high]
            days = ((times[row] - times[row - 1]) / DAY_S).astype(np.float32)
            decayed[row] += decayed[row - 1] * _decay(days)
    until = np.full(n, np.iinfo(np.int32).max, np.int32)
    until[:-1][~starts_item[1:]] = sessions[1:][~starts_item[1:]]
    group_end = np.append(group_start[1:][starts_item[1:]], n)[np.cumsum(starts_item) - 1] - 1
    return RepeatHistory(
        item=items.astype(np.int32),
        count=(rank + 1).astype(np.float32),
        first_time=times[group_start],
        last_time=times,
        last_session=sessions.astype(np.int32),
        decayed=decayed,
        until=until,
        all_count=(rank[group_end] + 1).astype(np.float32),
        all_span=(times[group_end] - times[group_start]).astype(np.float32),
    )


@dataclass(frozen=True)
class RepeatItemStatistics:
    """What the training set says of each item.

    Attributes:
        count: [N] float32 sessions in which it was bought. buyers, again: [N] float32 users who
            bought it, and those who did more than once.
        span_days: [N] float32 days from a user's first purchase to the last, summed over users.
        subclass: [N] int32.
    """

    count: NDArray[np.float32]
    buyers: NDArray[np.float32]
    again: NDArray[np.float32]
    span_days: NDArray[np.float32]
    subclass: NDArray[np.int32]

    FIELDS: ClassVar = ("count", "buyers", "again", "span_days", "subclass")

    @cached_property
    def table(self) -> NDArray[np.float32]:
        """[N, 5] the fields side by side: an item's are then one place in memory."""
        return np.stack([getattr(self, name) for name in self.FIELDS], axis=1, dtype=np.float32)

    @cached_property
    def means(self) -> tuple[float, float, float, int]:
        """What few observations lean on: the rate of buying again and the gap in days over all
        items, all (smoothed) purchases; and the subclasses."""
        purchases, buyers = float(self.count.sum()), float(self.buyers.sum())
        rate = float(self.again.sum()) / max(buyers, 1)
        gap = float(self.span_days.sum()) / max(purchases - buyers, 1)
        return rate, gap, purchases + len(self.count), int(self.subclass.max(initial=-1)) + 1


def repeat_features(
    states: Sequence[RepeatState],
    items: RepeatItemStatistics,
    times: NDArray[np.int64],
    beside: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Features [Σ m, len(FEATURES) + K] of the items of all states, one state after the other.

    Args:
        states: one a request, each with m items.
        items: statistics of the catalogue.
        times: [len(states)] int64 unix seconds of the requests.
        beside: [Σ m, K] the last columns, of the items on the day of the request: what was sold of
            late, what is promoted. None: K is 0.
    """
    ends = np.cumsum([len(state.item) for state in states], dtype=np.int64)
    # A row a feature and its kind: functions of a whole row are taken many numbers at a time.
    rows = np.empty((len(_ROWS) + len(HALF_LIVES_DAYS), ends[-1] if len(ends) else 0), np.float32)
    start = 0
    for state, end, time in zip(states, ends.tolist(), times.tolist(), strict=True):
        of_all: tuple[NDArray[Any], ...] = state.count, state.last_time - state.first_time
        if state.all_count is not None and state.all_span is not None:
            of_all = state.all_count, state.all_span
        own = tuple(getattr(state, name) for name in RepeatState.FIELDS)
        now = time, state.n_sessions, state.last_session_time
        _fill(rows[:, start:end], own, of_all, now, items.table, items.means)
        start = end
    recent = rows[: len(HALF_LIVES_DAYS)]
    np.exp2(recent, out=recent)
    recent *= rows[len(_ROWS) :]
    _share(rows, ends)
    np.log1p(rows[:_LOG1P], out=rows[:_LOG1P])
    np.log(rows[_LOG1P:_LOG], out=rows[_LOG1P:_LOG])
    features = np.ascontiguousarray(rows[_PLACES].T)
    return features if beside is None else np.concatenate([features, beside], axis=1)


# FEATURES by what is taken of the numbers that _fill writes: log1p, log, nothing.
_ROWS = (
    "log_decayed_14d", "log_decayed_45d", "log_decayed_120d", "log_count", "log_days_since",
    "log_sessions_since", "log_item_gap_days", "log_days_since_session", "log_sessions",
    "log_items_per_session", "log_days_since_subclass", "log_subclass_decayed_45d",
    "log_others_since", "log_own_gap_days", "log_days_since_first", "log_days_per_session",
    "log_share_14d", "log_share_45d", "log_share_120d", "log_share_of_purchases",
    "log_gap_ratio", "log_popularity", "log_subclass_gap_ratio", "log_session_gap_ratio",
    "log_weekly_rate",
    "share_of_sessions", "has_own_gap", "in_last_session", "rebuy_rate", "share_of_subclass",
)  # fmt: skip
_LOG1P, _LOG = _ROWS.index("log_gap_ratio"), _ROWS.index("share_of_sessions")
_SHARES = _ROWS.index("log_share_14d")
_PLACES = np.array([_ROWS.index(name) for name in FEATURES])


@compiled
def _fill(
    rows: NDArray[np.float32],
    own: tuple[NDArray[Any], ...],
    of_all: tuple[NDArray[Any], ...],
    now: tuple[int, int, int],
    table: NDArray[np.float32],
    means: tuple[float, float, float, int],
) -> None:
    """What _ROWS are made of, [m] each, and behind them the decayed counts, of one state.

    The statistics are taken without the user's own purchases: with them, a training position would
    read its own answer, that the item is bought again.

    Args:
        own: its `RepeatState.FIELDS`.
        of_all: count and span in seconds that the statistics hold of the user.
        now: time, sessions, time of the last one.
        table, means: of `RepeatItemStatistics`.
    """
    item, count, first_time, last_time, last_session, decayed = own
    all_count, all_span = of_all
    time, n_sessions, last_session_time = now
    rate, gap, total, n_subclasses = means
    in_subclass = np.zeros(n_subclasses)
    recent_in_subclass = np.zeros(n_subclasses)
    first_in_subclass = np.full(n_subclasses, np.iinfo(np.int64).max)
    last_in_subclass = np.full(n_subclasses, np.iinfo(np.int64).min)
    bought, began = 0.0, last_session_time
    for i in range(len(item)):
        kind = int(table[item[i], 4])
        bought += count[i]
        began = min(began, first_time[i])
        in_subclass[kind] += count[i]
        faded = np.exp2(-_days(time - last_time[i]) / HALF_LIVES_DAYS[1])
        recent_in_subclass[kind] += decayed[i, 1] * faded
        first_in_subclass[kind] = min(first_in_subclass[kind], first_time[i])
        last_in_subclass[kind] = max(last_in_subclass[kind], last_time[i])
    others_since = _later_in_group(item, last_time, table, n_subclasses)
    sessions = max(n_sessions, 1)
    session_gap = _days(last_session_time - began) / max(n_sessions - 1, 1)
    since_session = _days(time - last_session_time)
    for i in range(len(item)):
        purchases, buyers, again, span_days = table[item[i], :4]
        kind = int(table[item[i], 4])
        days = _days(time - last_time[i])
        # Never below 0: a store may know of more than the statistics do.
        others = max(buyers - (all_count[i] > 0), 0.0)
        others_bought = max(purchases - all_count[i], 0.0)
        others_again = max(again - (all_count[i] > 1), 0.0)
        others_days = max(span_days - all_span[i] / DAY_S, 0.0)
        usual_gap = (others_days + _PRIOR * gap) / (max(others_bought - others, 0.0) + _PRIOR)
        gap_days, own_gap = usual_gap, 0.0
        if count[i] > 1:
            gap_days = own_gap = (last_time[i] - first_time[i]) / DAY_S / (count[i] - 1)
        sessions_since = n_sessions - 1 - last_session[i]
        for place in range(3):
            rows[place, i] = -days / HALF_LIVES_DAYS[place]
            rows[len(rows) - 3 + place, i] = decayed[i, place]
        rows[3, i] = count[i]
        rows[4, i] = days
        rows[5, i] = sessions_since
        rows[6, i] = usual_gap
        rows[7, i] = since_session
        rows[8, i] = n_sessions
        rows[9, i] = bought / sessions
        rows[10, i] = _days(time - last_in_subclass[kind])
        rows[11, i] = recent_in_subclass[kind]
        rows[12, i] = others_since[i]
        rows[13, i] = own_gap
        rows[14, i] = _days(time - first_time[i])
        rows[15, i] = session_gap
        rows[20, i] = (days + 1) / (gap_days + 1)
        rows[21, i] = (others_bought + 1) / total
        span = _days(last_in_subclass[kind] - first_in_subclass[kind])
        subclass_gap = span / max(in_subclass[kind] - 1, 1.0)
        rows[22, i] = (rows[10, i] + 1) / (subclass_gap + 1)
        rows[23, i] = (since_session + 0.5) / (session_gap + 0.5)
        rows[24, i] = 7 * count[i] / (rows[14, i] + _RATE_DAYS)
        rows[25, i] = count[i] / sessions
        rows[26, i] = count[i] > 1
        rows[27, i] = sessions_since == 0
        rows[28, i] = (others_again + _PRIOR * rate) / (others + _PRIOR)
        rows[29, i] = count[i] / in_subclass[kind]


@compiled
def _share(rows: NDArray[np.float32], ends: NDArray[np.int64]) -> None:
    """Fills the shares, in percent of all items of a state, of decayed counts and counts."""
    start = 0
    for end in ends:
        for place in range(4):  # the rows 0 to 3 are the decayed counts and the count
            total = np.float32(0)
            for i in range(start, end):
                total += rows[place, i]
            scale = np.float32(100) / max(total, np.float32(1e-12))
            for i in range(start, end):
                rows[_SHARES + place, i] = rows[place, i] * scale
        start = end


@compiled
def _later_in_group(
    item: NDArray[np.int32],
    last_time: NDArray[np.int64],
    table: NDArray[np.float32],
    n_subclasses: int,
) -> NDArray[np.float32]:
    """[m] how many other items of its subclass were bought after each item was, the last time."""
    later = np.zeros(len(item), np.float32)
    order = np.argsort(-last_time, kind="mergesort")
    seen = np.zeros(n_subclasses, np.float32)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and last_time[order[stop]] == last_time[order[start]]:
            later[order[stop]] = seen[int(table[item[order[stop]], 4])]
            stop += 1
        for place in range(start, stop):  # of one moment: neither came after the other
            seen[int(table[item[order[place]], 4])] += 1
        start = stop
    return later


@compiled
def _days(seconds: int) -> float:
    """Seconds as days, never negative: a request may carry an earlier time than its history."""
    return max(seconds / DAY_S, 0.0)


def _decay(days: NDArray[np.float32]) -> NDArray[np.float32]:
    """Factors [n, 3] by which a count fades over `days` [n]."""
    factors: NDArray[np.float32] = np.exp2(-days[:, None] / HALF_LIVES_DAYS)
    return factors
