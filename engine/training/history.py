"""What training and evaluation read of a dataset before a cut."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.clock import DAY_S, Clock
from engine.data.dataset import Dataset
from engine.errors import ConfigError
from engine.features import Calendar, History, recency_buckets
from engine.repeats import RepeatHistory, RepeatItemStatistics, RepeatState, repeat_history
from engine.sales import Sales


@dataclass(frozen=True)
class Past:
    """A dataset as it stood at `cut`: nothing in here knows of a later event.

    Attributes:
        dataset: the whole dataset; outside, its catalogue and users are read, and the pages shown
            before the cut.
        cut: unix seconds (or order, where the data has no time); events before it are the past.
        calendar: the shop's time and signals.
        offsets: [U + 1] int64; item, time, type, session: [E] as in the dataset.
        recency: [E] int64 buckets.
        session_start: [U] arrays of [sessions + 1] int64, first event of each session, relative to
            the user's first, then the user's number of events.
        catalogue: [A] int64, items that exist, or have an event, before the cut.
        counts: [N] float32, sessions in which each item was bought.
        log_p: [N] float32, log of the smoothed share of each item.
        repeats: one RepeatHistory a user.
        statistics: of the items, for the repeat features.
        sales: of the items, by day.
    """

    dataset: Dataset
    cut: int
    calendar: Calendar
    offsets: NDArray[np.int64]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    type: NDArray[np.int32]
    session: NDArray[np.int32]
    recency: NDArray[np.int64]
    session_start: list[NDArray[np.int64]]
    catalogue: NDArray[np.int64]
    counts: NDArray[np.float32]
    log_p: NDArray[np.float32]
    repeats: list[RepeatHistory] = field(repr=False)
    statistics: RepeatItemStatistics
    sales: Sales

    def events(self, user: int) -> slice:
        """Where the user's events lie in the flat arrays."""
        return slice(int(self.offsets[user]), int(self.offsets[user + 1]))

    def history(self, user: int) -> History:
        """The user's whole past."""
        at = self.events(user)
        return History(self.item[at], self.time[at], self.type[at])

    def repeat_state(self, user: int) -> RepeatState:
        """The user's repeat items at the cut."""
        n_sessions = len(self.session_start[user]) - 1
        times = self.time[self.events(user)]
        return self.repeats[user].after(n_sessions - 1, int(times[-1]) if len(times) else 0)


def past(dataset: Dataset, cut: int, alpha: float, repeat_types: tuple[str, ...]) -> Past:
    """The dataset before `cut`.

    Args:
        dataset: a prepared dataset.
        cut: unix seconds, or an order.
        alpha: smoothing of the popularity prior.
        repeat_types: event types that count as bought.
    Raises:
        ConfigError: the data has no events of such a type.
    """
    meta = dataset.meta
    calendar = Calendar(Clock(meta.timezone), meta.has_time, meta.first_day, dataset.signals)
    user = np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.event_offsets))
    keep = dataset.event_time < cut
    offsets = np.concatenate(
        [[0], np.cumsum(np.bincount(user[keep], minlength=len(dataset.user_ids)))]
    )
    item, kind, session = (
        array[keep] for array in (dataset.event_item, dataset.event_type, dataset.event_session)
    )
    # An order is no time: without one every gap is 0.
    time = dataset.event_time[keep] if meta.has_time else np.zeros(len(item), np.int64)
    codes = _codes(meta.event_types, repeat_types)
    recency = np.zeros(len(item), np.int64)
    session_start, repeats = [], []
    for low, high in pairwise(offsets.tolist()):
        sessions = session[low:high]
        starts = np.flatnonzero(np.diff(sessions, prepend=-1))
        session_start.append(np.append(starts, high - low))
        bought = np.isin(kind[low:high], codes)
        repeats.append(
            repeat_history(item[low:high][bought], time[low:high][bought], sessions[bought])
        )
        if meta.has_time:
            recency[low:high] = recency_buckets(time[low:high])
    statistics = _statistics(repeats, dataset.item_subclass)
    smoothed = statistics.count + alpha
    return Past(
        dataset=dataset,
        cut=cut,
        calendar=calendar,
        offsets=offsets,
        item=item,
        time=time,
        type=kind,
        session=session,
        recency=recency,
        session_start=session_start,
        # An item with an event exists, whatever its row says of when it came.
        catalogue=np.union1d(np.flatnonzero(dataset.item_from < cut), item),
        counts=statistics.count,
        log_p=np.log(smoothed / smoothed.sum()).astype(np.float32),
        repeats=repeats,
        statistics=statistics,
        sales=_sales(repeats, calendar, len(dataset.item_ids), cut),
    )


def _codes(event_types: list[str], repeat_types: tuple[str, ...]) -> NDArray[np.int32]:
    """Codes of the event types that count as bought."""
    missing = sorted(set(repeat_types) - set(event_types))
    if missing or not repeat_types:
        raise ConfigError(
            f"train.repeat_types: expected some of the data's event types {event_types}, "
            f"got {list(repeat_types)}"
        )
    return np.array([event_types.index(name) for name in repeat_types], np.int32)


def _sales(repeats: list[RepeatHistory], calendar: Calendar, n_items: int, cut: int) -> Sales:
    """All users' purchases by item and local day; where there is no time, all on one day."""
    item = np.concatenate([r.item for r in repeats])
    days = calendar.clock.day(np.concatenate([r.last_time for r in repeats]))
    until = calendar.clock.day(np.array([cut if calendar.has_time else 0]))
    return Sales.of(item, days, n_items, int(until[0]))


def _statistics(repeats: list[RepeatHistory], subclass: NDArray[np.int32]) -> RepeatItemStatistics:
    """Sums over all users' purchases, by item."""
    final = [r.until == np.iinfo(np.int32).max for r in repeats]  # one row a (user, item)
    item = np.concatenate([r.item[rows] for r, rows in zip(repeats, final, strict=True)])
    count = np.concatenate([r.count[rows] for r, rows in zip(repeats, final, strict=True)])
    span = np.concatenate([r.all_span[rows] for r, rows in zip(repeats, final, strict=True)])

    def total(weights: NDArray[Any]) -> NDArray[np.float32]:
        return np.bincount(item, weights, minlength=len(subclass)).astype(np.float32)

    return RepeatItemStatistics(
        count=total(count),
        buyers=total(np.ones(len(item))),
        again=total(count > 1),
        span_days=total(span / DAY_S),
        subclass=subclass,
    )
