"""Repeat purchases of one user: state, and the features that the repeat network reads.

One row describes one item of the user's whole history as it stood after a session. Training reads
the rows of every session, serving the last one of each item: the same code makes both, so that a
served feature equals the trained one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .data.clock import DAY_S

_PRIOR = 5.0  # observations that the catalogue's mean counts as
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


class Usual(NamedTuple):
    """What others do with an item, [m] float32 each: the chance that a buyer buys it again, days
    between two purchases, log of its share of all purchases."""

    rebuy_rate: NDArray[np.float32]
    gap_days: NDArray[np.float32]
    log_p: NDArray[np.float32]


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
    def _means(self) -> tuple[float, float, float]:
        """Rate of buying again and gap in days over all items, log of all (smoothed) purchases."""
        purchases, buyers = float(self.count.sum()), float(self.buyers.sum())
        rate = float(self.again.sum()) / max(buyers, 1)
        gap = float(self.span_days.sum()) / max(purchases - buyers, 1)
        return rate, gap, float(np.log(purchases + len(self.count)))

    def without(
        self, item: NDArray[np.int32], count: NDArray[np.float32], span: NDArray[np.float32]
    ) -> Usual:
        """Statistics of items [m] without one user's own purchases; few lean on the mean.

        With them, a training position would read its own answer: that the item is bought again.

        Args:
            item: [m] int32.
            count, span: [m] float32 purchases by the user and seconds from the first to the last.
        """
        rate, gap, log_total = self._means
        buyers = self.buyers[item] - (count > 0)
        purchases = self.count[item] - count
        again = self.again[item] - (count > 1)
        days = np.maximum(self.span_days[item] - span / DAY_S, 0)
        return Usual(
            (again + _PRIOR * rate) / (buyers + _PRIOR),
            (days + _PRIOR * gap) / (purchases - buyers + _PRIOR),
            np.log(purchases + 1) - np.float32(log_total),
        )


def repeat_features(
    states: Sequence[RepeatState], items: RepeatItemStatistics, times: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Features [Σ m, len(FEATURES)] of the items of all states, one state after the other.

    Args:
        states: one a request, each with m items.
        items: statistics of the catalogue.
        times: [len(states)] int64 unix seconds of the requests.
    """
    sizes = [len(state.item) for state in states]
    owner = np.repeat(np.arange(len(states)), sizes)
    index, count, first_time, last_time, last_session, decayed = (
        np.concatenate([getattr(state, field) for state in states]) for field in RepeatState.FIELDS
    )
    n_sessions = np.array([state.n_sessions for state in states])
    n_bought = np.bincount(owner, weights=count, minlength=len(states))
    since_session = _days(times - np.array([state.last_session_time for state in states]))

    days = _days(times[owner] - last_time)
    own_gap = count > 1
    span = (last_time - first_time).astype(np.float32)
    usual = items.without(index, _all(states, "all_count", count), _all(states, "all_span", span))
    gap = np.where(own_gap, span / DAY_S / np.maximum(count - 1, 1), usual.gap_days)
    sessions_since = n_sessions[owner] - 1 - last_session
    recent = np.log1p(decayed * _decay(days))

    _, group = np.unique(
        owner * np.int64(len(items.subclass)) + items.subclass[index], return_inverse=True
    )
    group_count = np.bincount(group, weights=count)
    group_last = np.full(len(group_count), np.iinfo(np.int64).min)
    np.maximum.at(group_last, group, last_time)

    columns = (
        np.log1p(count),
        recent[:, 0],
        recent[:, 1],
        recent[:, 2],
        np.log1p(days),
        np.log1p(sessions_since),
        count / np.maximum(n_sessions, 1)[owner],
        np.log((days + 1) / (gap + 1)),
        own_gap,
        sessions_since == 0,
        usual.rebuy_rate,
        usual.log_p,
        np.log1p(usual.gap_days),
        np.log1p(since_session)[owner],
        np.log1p(n_sessions)[owner],
        np.log1p(n_bought / np.maximum(n_sessions, 1))[owner],
        count / group_count[group],
        np.log1p(_days(times[owner] - group_last[group])),
    )
    features: NDArray[np.float32] = np.stack(columns, axis=1).astype(np.float32)
    return features


def _all(
    states: Sequence[RepeatState], name: str, default: NDArray[np.float32]
) -> NDArray[np.float32]:
    """One of the states' `all_…` arrays, concatenated like `default`, which stands in for None."""
    starts = np.cumsum([0, *(len(state.item) for state in states)])
    parts = [
        default[start : start + len(state.item)]
        if getattr(state, name) is None
        else getattr(state, name)
        for start, state in zip(starts, states, strict=False)
    ]
    return np.concatenate(parts)


def _decay(days: NDArray[np.float32]) -> NDArray[np.float32]:
    """Factors [n, 3] by which a count fades over `days` [n]."""
    factors: NDArray[np.float32] = np.exp2(-days[:, None] / HALF_LIVES_DAYS)
    return factors


def _days(seconds: NDArray[np.int64]) -> NDArray[np.float32]:
    """Seconds as days, never negative: a request may carry an earlier time than its history."""
    days: NDArray[np.float32] = np.maximum(seconds / DAY_S, 0).astype(np.float32)
    return days
