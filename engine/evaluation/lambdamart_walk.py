"""One pass over a user's events: a request's candidates, and what the user's past says of them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.compiled import compiled
from engine.data.clock import DAY_S

OWN = (
    "count", "decayed_14d", "decayed_45d", "decayed_120d", "days_since", "sessions_since",
    "own_gap_days", "last_gap_days", "gap_ratio", "share_of_sessions", "share_of_own_items",
    "days_since_first", "same_weekday", "share_same_weekday", "last_3_sessions",
    "subclass_since",
)  # fmt: skip
CATEGORY = (
    "subclass_count", "subclass_decayed_45d", "share_of_subclass", "days_since_subclass",
    "subclass_gap_days", "subclass_gap_ratio", "items_of_subclass", "share_in_subclass",
)  # fmt: skip
NEVER = -1.0  # of a candidate that the user never bought: trees read it as a class of its own
_HALF_LIVES = np.array([14.0, 45.0, 120.0])
_N_OWN = len(OWN)


@compiled
def fill_request(
    rows: NDArray[np.float32],
    item: NDArray[np.int32],
    user_row: NDArray[np.float32],
    events: tuple[NDArray[Any], ...],
    request: tuple[int, int, int, int],
    scratch: tuple[NDArray[np.float64], NDArray[np.float64]],
    shop: tuple[NDArray[np.int32], NDArray[np.int32]],
    most: tuple[int, int],
) -> int:
    """Fills candidates and their OWN and CATEGORY features of one request; how many there are.

    Args:
        rows, item: of this request and those to come; the first of them are filled.
        user_row: [6] the first of USER.
        events: item, time, session, weekday [E], and the subclass of every item [N].
        request: first event of the user, first after the cut, time and weekday of the request.
        scratch: [N, 13] and [S, 9] of `_walk`; zeros before and after.
        shop: popular items, popular items of each subclass.
        most: own items, and subclasses whose popular items are candidates.
    """
    low, high, now, _ = request
    of_item, of_subclass = scratch
    bought = np.unique(events[0][low:high])
    _walk(of_item, of_subclass, events, request)
    _of_user(user_row, events, request)
    kinds = np.unique(events[4][bought])
    # By the count decayed by 45 days; by 120 days among what is long past.
    order = np.argsort(-of_item[bought, 4] - 0.1 * of_item[bought, 5])[: most[0]]
    size = 0
    for at in order:
        item[size] = bought[at]
        of_item[bought[at], 12] = 1.0
        size += 1
    size = _add(item, size, of_item, shop[0])
    for kind in kinds[np.argsort(-of_subclass[kinds, 1])[: most[1]]]:
        size = _add(item, size, of_item, shop[1][kind])
    n_sessions = user_row[0]
    n_bought = max(high - low, 1)
    for row in range(size):
        own, category = of_item[item[row]], of_subclass[events[4][item[row]]]
        _own(rows[row, :_N_OWN], own, now, n_sessions, n_bought)
        _category(rows[row, _N_OWN:], own, category, now, n_bought)
    of_item[bought] = 0.0
    of_item[item[:size]] = 0.0
    of_subclass[kinds] = 0.0
    return size


@compiled
def _add(
    item: NDArray[np.int32],
    size: int,
    of_item: NDArray[np.float64],
    more: NDArray[np.int32],
) -> int:
    """Appends those of `more` that are no candidates yet."""
    for other in more:
        if other >= 0 and of_item[other, 12] == 0.0:
            of_item[other, 12] = 1.0
            item[size] = other
            size += 1
    return size


@compiled
def _walk(
    of_item: NDArray[np.float64],
    of_subclass: NDArray[np.float64],
    events: tuple[NDArray[Any], ...],
    request: tuple[int, int, int, int],
) -> None:
    """Sums over one user's events, newest first.

    of_item: 0 count, 1 last time, 2 first time, 3-5 decayed, 6 last gap in seconds, 7 sessions
    since the last, 8 on the request's weekday, 9 in the last three sessions, 10 purchases of the
    subclass in later sessions, 11 earliest session seen, counted from 1, 12 is a candidate.
    of_subclass: 0 count, 1-2 decayed by 45 and 120 days, 3 last time, 4 first time, 5 sessions,
    6 session seen, counted from 1, 7 purchases in it, 8 different items.
    """
    item, time, session, weekday, subclass = events
    low, high, now, asked_weekday = request
    last = session[high - 1] if high > low else 0
    for e in range(high - 1, low - 1, -1):
        own, category = of_item[item[e]], of_subclass[subclass[item[e]]]
        number = session[e] + 1
        if own[11] == number:
            continue  # another type of event in the same session
        age = max(now - time[e], 0) / DAY_S
        if category[6] != number:
            category[6] = number
            category[7] = 0.0
            category[5] += 1
        if own[0] == 0:
            own[1] = time[e]
            own[7] = last - session[e]
            own[10] = category[0] - category[7]
            category[8] += 1
        elif own[0] == 1:
            own[6] = own[1] - time[e]
        for place in range(3):
            own[3 + place] += 2.0 ** (-age / _HALF_LIVES[place])
        own[0] += 1
        own[2] = time[e]
        own[8] += weekday[e] == asked_weekday
        own[9] += last - session[e] < 3
        own[11] = number
        if category[0] == 0:
            category[3] = time[e]
        category[0] += 1
        category[1] += 2.0 ** (-age / 45.0)
        category[2] += 2.0 ** (-age / 120.0)
        category[4] = time[e]
        category[7] += 1


@compiled
def _of_user(
    row: NDArray[np.float32],
    events: tuple[NDArray[Any], ...],
    request: tuple[int, int, int, int],
) -> None:
    """The first six of USER: all but the calendar's."""
    _, time, session, _, _ = events
    low, high, now, _ = request
    if high == low:
        return
    sessions, last_basket = 1, 0
    for e in range(low, high):
        sessions += e > low and session[e] != session[e - 1]
        last_basket += session[e] == session[high - 1]
    gap = NEVER
    if sessions > 1:
        gap = (time[high - 1] - time[low]) / DAY_S / (sessions - 1)
    since = max(now - time[high - 1], 0) / DAY_S
    row[0] = sessions
    row[1] = (high - low) / sessions
    row[2] = last_basket
    row[3] = gap
    row[4] = since
    row[5] = (since + 1) / (gap + 1) if sessions > 1 else NEVER


@compiled
def _own(
    row: NDArray[np.float32],
    own: NDArray[np.float64],
    now: int,
    n_sessions: float,
    n_bought: int,
) -> None:
    """OWN, of one candidate."""
    count = own[0]
    if count == 0:
        row[:4] = 0.0
        row[4:] = NEVER
        return
    days = max(now - own[1], 0.0) / DAY_S
    gap = (own[1] - own[2]) / DAY_S / (count - 1) if count > 1 else NEVER
    row[0] = count
    row[1:4] = own[3:6]
    row[4] = days
    row[5] = own[7]
    row[6] = gap
    row[7] = own[6] / DAY_S if count > 1 else NEVER
    row[8] = (days + 1) / (gap + 1) if count > 1 else NEVER
    row[9] = count / n_sessions
    row[10] = count / n_bought
    row[11] = max(now - own[2], 0.0) / DAY_S
    row[12] = own[8]
    row[13] = own[8] / count
    row[14] = own[9]
    row[15] = own[10]


@compiled
def _category(
    row: NDArray[np.float32],
    own: NDArray[np.float64],
    category: NDArray[np.float64],
    now: int,
    n_bought: int,
) -> None:
    """CATEGORY, of one candidate."""
    count = category[0]
    if count == 0:
        row[:2] = 0.0
        row[2:8] = NEVER
        return
    days = max(now - category[3], 0.0) / DAY_S
    gap = NEVER
    if category[5] > 1:
        gap = (category[3] - category[4]) / DAY_S / (category[5] - 1)
    row[0] = count
    row[1] = category[1]
    row[2] = count / n_bought
    row[3] = days
    row[4] = gap
    row[5] = (days + 1) / (gap + 1) if gap >= 0 else NEVER
    row[6] = category[8]
    row[7] = own[0] / count
