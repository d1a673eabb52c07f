"""Candidates of requests, a row of features for each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .lambdamart_shop import Events, Shop
from .lambdamart_walk import CATEGORY, NEVER, OWN, fill_request

ITEM = (
    "popularity", "buyers", "rebuy_rate", "item_gap_days", "popularity_7d", "popularity_28d",
    "trend", "share_of_subclass_28d", "subclass_popularity_28d", "item_gap_ratio",
)  # fmt: skip
USER = (
    "sessions", "items_per_session", "last_basket", "trip_gap_days", "days_since_session",
    "trip_gap_ratio", "hour", "weekday", "week",
)  # fmt: skip


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
        made = fill_request(
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
