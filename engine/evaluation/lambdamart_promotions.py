"""What a shop announces before it sells: promotions by week and store, and shelf prices so far."""

from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from engine.compiled import compiled
from engine.data.clock import Clock
from engine.data.complete_journey import WEEK_2_START, _table, _weeks, read_purchases
from engine.data.dataset import Dataset

FEATURES = (
    "in_display_at_usual_store", "in_mailer_at_usual_store", "share_of_stores_in_display",
    "share_of_stores_in_mailer", "usual_store_is_listed", "promoted_weeks_of_last_4",
    "shelf_price",
)  # fmt: skip
DISPLAY, MAILER = 1, 2
_EPOCH = date(1970, 1, 1)
_MEMORY_WEEKS = 4


@dataclass(frozen=True)
class Promotions:
    """Announcements of W weeks and S stores, and where and for how much users shopped.

    Attributes:
        first_day: local days since 1970-01-01 at which week 0 begins.
        offsets: [W * S + 1] int64, the items promoted in week w and store s are
            `items[offsets[w * S + s]:offsets[w * S + s + 1]]`, ascending.
        items: [P] int32 item indices. flags: [P] uint8, DISPLAY and MAILER.
        shares: [2, W, N] float32, of the stores with any promotion in the week, those that show
            the item in a display, in the mailer.
        visit_user: [V] int64 user indices, ascending. visit_time: [V] int64 unix seconds.
            visit_store: [V] int64 store places; one visit a user, second and store.
        price_item: [E] int64. price_time: [E] int64 unix seconds. price: [E] float32 dollars on
            the shelf: what was paid with all discounts added back.
    """

    first_day: int
    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    flags: NDArray[np.uint8]
    shares: NDArray[np.float32]
    visit_user: NDArray[np.int64]
    visit_time: NDArray[np.int64]
    visit_store: NDArray[np.int64]
    price_item: NDArray[np.int64]
    price_time: NDArray[np.int64]
    price: NDArray[np.float32]

    def usual_store(self, cut: int, users: NDArray[np.int64]) -> NDArray[np.int64]:
        """[R] place of the store that each of `users` [R] visited most before `cut`, -1 for none;
        of equals the lowest place."""
        n_stores = (len(self.offsets) - 1) // self.shares.shape[1]
        before = self.visit_time < cut
        key = self.visit_user[before] * n_stores + self.visit_store[before]
        keys, counts = np.unique(key, return_counts=True)
        keys = keys[np.lexsort((keys, -counts, keys // n_stores))]
        visitors, first = np.unique(keys // n_stores, return_index=True)
        usual = np.full(int(max(users.max(initial=-1), visitors.max(initial=-1))) + 1, -1, np.int64)
        usual[visitors] = keys[first] % n_stores
        return usual[users]

    def features(
        self,
        cut: int,
        clock: Clock,
        users: NDArray[np.int64],
        times: NDArray[np.int64],
        sizes: NDArray[np.int64],
        items: NDArray[np.int32],
    ) -> NDArray[np.float32]:
        """[Σ sizes, len(FEATURES)] of candidates: prices and stores of before `cut`, promotions of
        the week of the request.

        Args:
            users, times, sizes: [R] of the requests: user index, unix seconds, candidates.
            items: [Σ sizes] candidates, one request after the other.
        """
        n_weeks, n_items = self.shares.shape[1:]
        week = (clock.day(times) - self.first_day) // 7
        has_listings = (week >= 0) & (week < n_weeks)
        usual = self.usual_store(cut, users)
        n_stores = (len(self.offsets) - 1) // n_weeks
        listing = np.where(has_listings & (usual >= 0), week * n_stores + usual, -1)
        rows = np.zeros((len(items), len(FEATURES)), np.float32)
        _look_up(rows, self.offsets, self.items, self.flags, listing, sizes, items)
        at = np.repeat(np.clip(week, 0, n_weeks - 1), sizes)
        here = np.repeat(has_listings, sizes)
        rows[:, 2:4] = np.where(here, self.shares[:, at, items], 0.0).T
        for back in range(1, _MEMORY_WEEKS + 1):
            earlier = np.repeat(week - back, sizes)
            told = (earlier >= 0) & (earlier < n_weeks)
            shown = self.shares[:, np.where(told, earlier, 0), items].max(axis=0) > 0
            rows[:, 5] += told & shown
        before = self.price_time < cut
        sums, counts = (
            np.bincount(self.price_item[before], weights, minlength=n_items)
            for weights in (self.price[before], None)
        )
        rows[:, 6] = np.where(counts > 0, sums / np.maximum(counts, 1), -1.0)[items]
        return rows


@compiled
def _look_up(
    rows: NDArray[np.float32],
    offsets: NDArray[np.int64],
    promoted: NDArray[np.int32],
    flags: NDArray[np.uint8],
    listing: NDArray[np.int64],
    sizes: NDArray[np.int64],
    items: NDArray[np.int32],
) -> None:
    """Columns 0 (display), 1 (mailer) and 4 (the store promotes anything that week) of `rows`."""
    row = 0
    for request in range(len(sizes)):
        place = listing[request]
        low = offsets[place] if place >= 0 else 0
        high = offsets[place + 1] if place >= 0 else 0
        for _ in range(sizes[request]):
            at = low + np.searchsorted(promoted[low:high], items[row])
            if at < high and promoted[at] == items[row]:
                rows[row, 0] = flags[at] & 1
                rows[row, 1] = flags[at] >> 1
            rows[row, 4] = high > low
            row += 1


def complete_journey_promotions(dataset: Dataset) -> Promotions:
    """The promotions and shelf prices of Complete Journey, by the dataset's items and users.

    Args:
        dataset: prepared from what `write_complete_journey` wrote.
    """
    purchases = read_purchases()
    stores = np.array(
        pl.concat([purchases["store_id"], _promoted_stores()]).unique().sort().to_list()
    )
    visits = purchases.select("user_id", "time", "store_id").unique().sort("user_id", "time")
    user_ids = visits["user_id"].to_numpy().astype(dataset.user_ids.dtype)
    visit_user = np.searchsorted(dataset.user_ids, user_ids)
    priced = purchases.filter(pl.col("unit_price").is_not_null())
    offsets, items, flags, shares = _listings(dataset.item_ids, stores)
    return Promotions(
        first_day=(WEEK_2_START - timedelta(days=7) - _EPOCH).days,
        offsets=offsets,
        items=items,
        flags=flags,
        shares=shares,
        visit_user=visit_user.astype(np.int64),
        visit_time=visits["time"].to_numpy().astype(np.int64),
        visit_store=np.searchsorted(stores, visits["store_id"].to_numpy()).astype(np.int64),
        price_item=np.searchsorted(dataset.item_ids, priced["item_id"].to_numpy()),
        price_time=priced["time"].to_numpy().astype(np.int64),
        price=priced["unit_price"].to_numpy().astype(np.float32),
    )


def _promoted_stores() -> pl.Series:
    return _table("promotions").select(pl.col("store_id").unique()).collect()["store_id"]


def _listings(
    item_ids: NDArray[np.int64], stores: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8], NDArray[np.float32]]:
    """offsets, items, flags and shares of `Promotions`; week 1 of the table is week 0."""
    n_items, n_stores, n_weeks = len(item_ids), len(stores), 53
    known = pl.DataFrame({"product_id": item_ids}).lazy()
    keys, kinds = [], []
    for weeks in _weeks():
        rows = (
            _table("promotions")
            .filter(weeks)
            .join(known, on="product_id", how="semi")
            .select(
                "product_id", "store_id", "week",
                flag=(pl.col("display_location") != "0") * pl.lit(DISPLAY, pl.UInt8)
                + (pl.col("mailer_location") != "0") * pl.lit(MAILER, pl.UInt8),
            )
            .filter(pl.col("flag") > 0)
            .collect()
        )  # fmt: skip
        listing = (rows["week"].to_numpy() - 1) * n_stores
        listing = listing + np.searchsorted(stores, rows["store_id"].to_numpy())
        key = listing * n_items + np.searchsorted(item_ids, rows["product_id"].to_numpy())
        order = np.argsort(key, kind="stable")
        key, flag = key[order], rows["flag"].to_numpy()[order]
        first = np.flatnonzero(np.diff(key, prepend=-1))
        keys.append(key[first])
        kinds.append(np.bitwise_or.reduceat(flag, first).astype(np.uint8))
    key, flags = np.concatenate(keys), np.concatenate(kinds)
    listing, items = key // n_items, (key % n_items).astype(np.int32)
    offsets = np.searchsorted(listing, np.arange(n_weeks * n_stores + 1)).astype(np.int64)
    open_stores = np.diff(offsets).reshape(n_weeks, n_stores).astype(bool).sum(axis=1)
    week_item = listing // n_stores * n_items + items
    shares = [
        np.bincount(week_item[flags & kind > 0], minlength=n_weeks * n_items).reshape(n_weeks, -1)
        / np.maximum(open_stores, 1)[:, None]
        for kind in (DISPLAY, MAILER)
    ]
    return offsets, items, flags, np.stack(shares).astype(np.float32)
