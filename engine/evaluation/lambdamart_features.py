"""Candidates of a request, and what a user's and the shop's past say of each of them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.compiled import compiled
from engine.data.clock import DAY_S, Clock
from engine.data.dataset import Dataset

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
ITEM = (
    "popularity", "buyers", "rebuy_rate", "item_gap_days", "popularity_7d", "popularity_28d",
    "trend", "share_of_subclass_28d", "subclass_popularity_28d", "item_gap_ratio",
)  # fmt: skip
USER = (
    "sessions", "items_per_session", "last_basket", "trip_gap_days", "days_since_session",
    "trip_gap_ratio", "hour", "weekday", "week",
)  # fmt: skip
NEVER = -1.0  # of a candidate that the user never bought: trees read it as a class of its own
_HALF_LIVES = np.array([14.0, 45.0, 120.0])
_PRIOR = 5.0


@dataclass(frozen=True)
class Candidates:
    """Requests with candidates, and a row of features for each.

    Attributes:
        users, times: [R] user index, unix seconds. sizes: [R] int64 candidates.
        items: [Σ sizes] int32, one request after the other; unique in a request.
        rows: [Σ sizes, F] float32.
    """

    users: NDArray[np.int64]
    times: NDArray[np.int64]
    sizes: NDArray[np.int64]
    items: NDArray[np.int32]
    rows: NDArray[np.float32]


class Events:
    """A dataset's events of some types as arrays that compiled code reads, and their local days."""

    def __init__(self, dataset: Dataset, types: tuple[str, ...]) -> None:
        codes = [dataset.meta.event_types.index(name) for name in types]
        keep = np.isin(dataset.event_type, codes)
        owner = np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.event_offsets))
        self.clock = Clock(dataset.meta.timezone)
        self.n_items, self.n_users = len(dataset.item_ids), len(dataset.user_ids)
        self.n_subclasses = len(dataset.meta.subclasses)
        self.subclass = dataset.item_subclass
        self.user = owner[keep]
        self.offsets = np.searchsorted(self.user, np.arange(self.n_users + 1)).astype(np.int64)
        self.item, self.time, self.session = (
            array[keep] for array in (dataset.event_item, dataset.event_time, dataset.event_session)
        )
        self.weekday = self.clock.local(self.time).weekday


@dataclass(frozen=True)
class Shop:
    """What all users' events before a cut say.

    Attributes:
        items: [N, 6] float64: users' sessions with the item, its buyers, its rate of buying again,
            days between purchases, sessions of the last 7 and of the last 28 days.
        subclass_28d: [S] float64, purchases of the last 28 days.
        popular: [P] int32 items, most bought of the last 28 days first.
        by_subclass: [S, B] int32 the same in each subclass, -1 pads.
    """

    items: NDArray[np.float64]
    subclass_28d: NDArray[np.float64]
    popular: NDArray[np.int32]
    by_subclass: NDArray[np.int32]

    @staticmethod
    def of(events: Events, cut: int, popular: int, per_subclass: int) -> "Shop":
        """The shop as of `cut`."""
        before = events.time < cut
        item, time = events.item[before], events.time[before]
        key = events.user[before] * events.n_items + item
        # Events are by user and time: a stable sort keeps a user's purchases of an item in order.
        order = np.argsort(key, kind="stable")
        first = np.flatnonzero(np.diff(key[order], prepend=-1))
        counts = np.diff(np.append(first, len(key)))
        span = (time[order[first + counts - 1]] - time[order[first]]) / DAY_S
        of = item[order[first]]

        def total(items: NDArray[Any], weights: Any = None) -> NDArray[np.float64]:
            sums = np.bincount(items, weights, minlength=events.n_items)
            return sums.astype(np.float64)

        bought, buyers = total(item), total(of)
        again, spans = total(of, counts > 1), total(of, span)
        rate = again.sum() / max(buyers.sum(), 1)
        gap = spans.sum() / max((counts - 1).sum(), 1)
        week, month = (total(item[time >= cut - days * DAY_S]) for days in (7, 28))
        columns = (
            bought,
            buyers,
            (again + _PRIOR * rate) / (buyers + _PRIOR),
            (spans + _PRIOR * gap) / (bought - buyers + _PRIOR),
            week,
            month,
        )
        known = np.flatnonzero(bought)
        ranked = known[np.lexsort((known, -bought[known], -month[known]))]
        return Shop(
            items=np.stack(columns, axis=1),
            subclass_28d=np.bincount(events.subclass, month, events.n_subclasses).astype(
                np.float64
            ),
            popular=ranked[:popular].astype(np.int32),
            by_subclass=_tops(events.subclass[ranked], ranked, events.n_subclasses, per_subclass),
        )


def _tops(
    subclass: NDArray[np.int32], ranked: NDArray[np.int64], n: int, k: int
) -> NDArray[np.int32]:
    """[n, k] the first k of `ranked` of each subclass, -1 pads."""
    order = np.argsort(subclass, kind="stable")
    sorted_subclass = subclass[order]
    place = np.arange(len(order)) - np.searchsorted(sorted_subclass, sorted_subclass)
    kept = place < k
    tops = np.full((n, k), -1, np.int32)
    tops[sorted_subclass[kept], place[kept]] = ranked[order][kept]
    return tops


def candidates(
    events: Events,
    shop: Shop,
    profile: NDArray[np.int32],
    cut: int,
    users: NDArray[np.int64],
    times: NDArray[np.int64],
    own: int,
    subclasses: int,
) -> Candidates:
    """Candidates and features of requests, from events before `cut` alone.

    Args:
        shop: of the same cut.
        profile: [U, C] codes of the users.
        users, times: [R] user index, unix seconds.
        own: most of a user's own items. subclasses: of the user's most bought ones, the popular
            items are candidates too.
    """
    n = len(users)
    width = own + len(shop.popular) + subclasses * shop.by_subclass.shape[1]
    n_own = len(OWN) + len(CATEGORY)
    item = np.zeros(n * width, np.int32)
    rows = np.empty((n * width, n_own), np.float32)
    sizes = np.zeros(n, np.int64)
    user_rows = np.zeros((n, 6), np.float32)
    local = events.clock.local(times)
    low = events.offsets[users]
    high = low + [
        int(np.searchsorted(events.time[a:b], cut))
        for a, b in zip(low.tolist(), events.offsets[users + 1].tolist(), strict=True)
    ]
    of_events = events.item, events.time, events.session, events.weekday, events.subclass
    scratch = np.zeros((events.n_items, 13)), np.zeros((events.n_subclasses, 9))
    used = 0
    for r in range(n):
        made = _request(
            rows[used:], item[used:], user_rows[r], of_events,
            (int(low[r]), int(high[r]), int(times[r]), int(local.weekday[r])),
            scratch, (shop.popular, shop.by_subclass), (own, subclasses),
        )  # fmt: skip
        sizes[r] = made
        used += made
    item = item[:used]
    user_table = np.column_stack([user_rows, local.hour, local.weekday, local.week, profile[users]])
    of_item = _item_features(shop, events.subclass, item, rows[:used])
    table = [rows[:used], of_item, np.repeat(user_table.astype(np.float32), sizes, axis=0)]
    return Candidates(users, times, sizes, item, np.concatenate(table, axis=1))


def _item_features(
    shop: Shop,
    subclass: NDArray[np.int32],
    item: NDArray[np.int32],
    rows: NDArray[np.float32],
) -> NDArray[np.float32]:
    """[n, len(ITEM)] of candidates whose OWN features are `rows`."""
    bought, buyers, rate, gap, week, month = shop.items[item].T
    of_subclass = shop.subclass_28d[subclass[item]]
    days = rows[:, OWN.index("days_since")]
    columns: NDArray[np.float32] = np.stack(
        [
            bought, buyers, rate, gap, week, month,
            np.log((4 * week + 1) / (month + 1)),
            month / np.maximum(of_subclass, 1),
            of_subclass,
            np.where(days >= 0, (days + 1) / (gap + 1), NEVER),
        ],
        axis=1,
        dtype=np.float32,
    )  # fmt: skip
    return columns


@compiled
def _request(
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

    The scratch is zeros before and after.
    """
    low, high, now, _ = request
    of_item, of_subclass = scratch
    bought = np.unique(events[0][low:high])
    _walk(of_item, of_subclass, events, request)
    _of_user(user_row, events, request)
    kinds = np.unique(events[4][bought])
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
        _own(rows[row], own, category, now, n_sessions, n_bought)
        _category(rows[row], own, category, now, n_bought)
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
    category: NDArray[np.float64],
    now: int,
    n_sessions: float,
    n_bought: int,
) -> None:
    """OWN, of one candidate."""
    count = own[0]
    if count == 0:
        row[:4] = 0.0
        row[4:16] = NEVER
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
    """CATEGORY, of one candidate, behind OWN."""
    count = category[0]
    if count == 0:
        row[16:18] = 0.0
        row[18:24] = NEVER
        return
    days = max(now - category[3], 0.0) / DAY_S
    gap = NEVER
    if category[5] > 1:
        gap = (category[3] - category[4]) / DAY_S / (category[5] - 1)
    row[16] = count
    row[17] = category[1]
    row[18] = count / n_bought
    row[19] = days
    row[20] = gap
    row[21] = (days + 1) / (gap + 1) if gap >= 0 else NEVER
    row[22] = category[8]
    row[23] = own[0] / count
