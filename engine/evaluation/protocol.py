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


def window_after(dataset: Dataset, cut: int, days: int = WINDOW_DAYS) -> int:
    """Unix seconds of the end of the `days` local days that begin at `cut`."""
    clock = Clock(dataset.meta.timezone)
    return clock.start_of_day(int(clock.day(np.array([cut]))[0]) + days)


def window_before(dataset: Dataset, end: int, days: int = WINDOW_DAYS) -> int:
    """Unix seconds of the start of the `days` local days that end at `end`."""
    return window_after(dataset, end, -days)


@dataclass(frozen=True)
class Cuts:
    """Unix seconds: validation is [validation, test), test is [test, end)."""

    validation: int
    test: int
    end: int


def last_cuts(dataset: Dataset) -> Cuts:
    """The last 28 local days of the data for the test, those before for validation."""
    end = window_after(dataset, int(dataset.event_time.max()), 1)
    test = window_before(dataset, end)
    return Cuts(window_before(dataset, test), test, end)
