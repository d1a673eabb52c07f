"""The next-session protocol: what each user bought in the first session after a cut."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.data.clock import Clock
from engine.data.dataset import Dataset

WINDOW_DAYS = 28


@dataclass(frozen=True)
class Task:
    """Requests with known answers.

    Attributes:
        cut: unix seconds; the past ends here.
        users: [Q] int64 user indices with events before the cut and a session in the window.
        times: [Q] int64 unix seconds, start of that session: the time of the request.
        targets: [Q] arrays of int32, the session's distinct items; some may be in no catalogue.
    """

    cut: int
    users: NDArray[np.int64]
    times: NDArray[np.int64]
    targets: list[NDArray[np.int32]]


def next_session(dataset: Dataset, cut: int, end: int) -> Task:
    """Each user's first session that starts in [cut, end), both unix seconds.

    Users without an event before the cut are left out: there is no history to recommend from.
    """
    users, times, targets = [], [], []
    for user in range(len(dataset.user_ids)):
        at = slice(*dataset.event_offsets[user : user + 2])
        event_times, session = dataset.event_time[at], dataset.event_session[at]
        begins = event_times[np.flatnonzero(np.diff(session, prepend=-1))]
        following = int(np.searchsorted(begins, cut))
        if following in (0, len(begins)) or begins[following] >= end:
            continue
        users.append(user)
        times.append(begins[following])
        targets.append(np.unique(dataset.event_item[at][session == following]))
    return Task(cut, np.array(users, np.int64), np.array(times, np.int64), targets)


def window_after(dataset: Dataset, cut: int) -> int:
    """Unix seconds of the end of the 28 local days that begin at `cut`; the data's end where it
    has an order and no time."""
    if not dataset.meta.has_time:
        return int(dataset.event_time.max(initial=0)) + 1
    return _days_later(dataset, cut, WINDOW_DAYS)


def window_before(dataset: Dataset, end: int) -> int:
    """Unix seconds of the start of the 28 local days that end at `end`; where the data has an order
    and no time, the order at which the last tenth of the events before `end` begins."""
    if not dataset.meta.has_time:
        before = dataset.event_time[dataset.event_time < end]
        return int(np.quantile(before, 0.9)) if len(before) else end
    return _days_later(dataset, end, -WINDOW_DAYS)


def _days_later(dataset: Dataset, moment: int, days: int) -> int:
    clock = Clock(dataset.meta.timezone)
    return clock.start_of_day(int(clock.day(np.array([moment]))[0]) + days)


@dataclass(frozen=True)
class Cuts:
    """Unix seconds: validation is [validation, test), test is [test, end)."""

    validation: int
    test: int
    end: int


def last_cuts(dataset: Dataset) -> Cuts:
    """The last window of the data for the test, the one before for validation."""
    last = int(dataset.event_time.max(initial=0))
    end = _days_later(dataset, last, 1) if dataset.meta.has_time else last + 1
    test = window_before(dataset, end)
    return Cuts(window_before(dataset, test), test, end)
