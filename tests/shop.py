"""A small generated shop in the Parquet schema, and an embedder that needs no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from engine.data.clock import Clock

TIMEZONE = "America/New_York"
FIRST_DAY = date(2024, 1, 1)
CATEGORIES = {
    "dairy": ("milk", "yogurt", "cheese"),
    "bakery": ("bread", "rolls", "cake"),
    "produce": ("apples", "lettuce", "potatoes"),
    "snacks": ("chips", "crackers", "nuts"),
    "frozen": ("pizza", "ice cream", "vegetables"),
    "household": ("detergent", "tissue", "candles"),
}
SUBCLASSES = [(category, kind) for category, kinds in CATEGORIES.items() for kind in kinds]
BRANDS = ("Northfield", "Oakridge", "Sunny Day", "Basics")


def write_shop(
    folder: Path,
    *,
    users: int = 60,
    items: int = 120,
    days: int = 120,
    seed: int = 0,
    with_time: bool = True,
    impressions: bool = False,
    outcomes: bool = False,
    promotions: bool = False,
) -> Path:
    """Writes a shop whose users mostly buy again what they bought, and returns `folder`.

    Item ids are 1000, 1007, …; users are `user-000`, …, and a third of them has no profile. The
    `promotion` signal is 1 every fourth week, when the items on offer sell more. Without time the
    events carry an order and there is no calendar. Outcomes come at random. Promotions announce the
    items on offer for each of those weeks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    ids = 1000 + 7 * np.arange(items)
    first_days = np.where(rng.random(items) < 0.1, rng.integers(0, days // 2, items), -1)
    on_offer = rng.random(items) < 0.2
    bought = [
        (user, item, day, hour)
        for user in range(users)
        for item, day, hour in _purchases(rng, first_days, on_offer, days)
    ]
    user, item, day, hour = (np.array(column) for column in zip(*bought, strict=True))
    clock = Clock(TIMEZONE)
    start = (FIRST_DAY - date(1970, 1, 1)).days
    midnights = np.array([clock.start_of_day(start + n) for n in range(days)])
    time = midnights[day] + 3600 * hour

    events = pl.DataFrame({"user_id": [f"user-{u:03}" for u in user], "item_id": ids[item]})
    order = np.arange(len(user))
    _write(
        events.with_columns(time=time) if with_time else events.with_columns(order=order),
        folder,
        "events",
    )
    opened = [int(midnights[d]) if d >= 0 else None for d in first_days]
    _write(_items(rng, ids, opened if with_time else [None] * items), folder, "items")
    _write(_users(rng, users), folder, "users")
    if with_time:
        _write(_calendar(rng, days), folder, "calendar")
    if impressions:
        pages = _pages(rng, user, item, time if with_time else order, items)
        clock_name = "time" if with_time else "order"
        named = pages.with_columns(
            item_id=pl.Series(ids[pages["item_id"].to_numpy()]),
            user_id=pl.format("user-{}", pl.col("user_id").cast(pl.String).str.zfill(3)),
        )
        _write(named.rename({"time": clock_name}), folder, "impressions")
    if outcomes:
        came = np.random.default_rng([seed, 1]).random((len(user), 2)) < (0.4, 0.1)
        named = pl.DataFrame(came, ["promoted", "coupon"])
        made = pl.DataFrame({"user_id": [f"user-{u:03}" for u in user], "item_id": ids[item]})
        clocks = {"time": time} if with_time else {"order": order}
        _write(
            pl.concat([made.with_columns(**clocks), named], how="horizontal"), folder, "outcomes"
        )
    if promotions:
        _write(_promotions(ids[on_offer], days), folder, "promotions")
    (folder / "shop.json").write_text(json.dumps({"name": "corner", "timezone": TIMEZONE}))
    return folder


def promoted(day: int) -> bool:
    """Whether the signal `promotion` is 1 on the day (counted from FIRST_DAY)."""
    return day // 7 % 4 == 3


def _promotions(ids: NDArray[np.int64], days: int) -> pl.DataFrame:
    weeks = [FIRST_DAY + timedelta(days=n) for n in range(0, days, 7) if promoted(n)]
    rows = [(item, day, day + timedelta(days=6), 0.5) for item in ids.tolist() for day in weeks]
    return pl.DataFrame(rows, ["item_id", "first_day", "last_day", "offer"], orient="row")


def _purchases(
    rng: np.random.Generator,
    first_days: NDArray[np.int64],
    on_offer: NDArray[np.bool_],
    days: int,
) -> list[tuple[int, int, int]]:
    """(item, day, hour) of one user: a basket every few days, two thirds from a usual list."""
    n_items = len(first_days)
    popularity = 1.0 / (1.0 + np.arange(n_items))
    usual = rng.choice(n_items, size=8, replace=False, p=popularity / popularity.sum())
    gap, hour, day = rng.integers(3, 9), rng.integers(8, 20), int(rng.integers(0, 9))
    made = []
    while day < days:
        weight = popularity * (first_days <= day) * np.where(on_offer & promoted(day), 6.0, 1.0)
        for _ in range(rng.integers(2, 7)):
            item = int(rng.choice(usual))
            if rng.random() < 0.35 or first_days[item] > day:
                item = int(rng.choice(n_items, p=weight / weight.sum()))
            made.append((item, day, int(hour)))
        day += int(gap + rng.integers(-1, 3))
    return made


def _items(
    rng: np.random.Generator, ids: NDArray[np.int64], opened: Sequence[int | None]
) -> pl.DataFrame:
    kinds = [SUBCLASSES[n % len(SUBCLASSES)] for n in range(len(ids))]
    brands = rng.choice(BRANDS, len(ids))
    sizes = rng.choice(["small", "large"], len(ids))
    return pl.DataFrame(
        {
            "item_id": ids,
            "text": [f"{s} {k} {c} {b}" for s, (c, k), b in zip(sizes, kinds, brands, strict=True)],
            "name": [
                f"{b} {k.title()} {i}" for i, (_, k), b in zip(ids, kinds, brands, strict=True)
            ],
            "subclass": [kind for _, kind in kinds],
            "category": [category for category, _ in kinds],
            "brand": brands.tolist(),
            "price": rng.lognormal(1.0, 0.6, len(ids)).round(2),
            "pack": rng.integers(1, 13, len(ids)),
            "in_stock": rng.random(len(ids)) < 0.9,
            "available_from": pl.Series(opened, dtype=pl.Int64),
        }
    )


def _users(rng: np.random.Generator, users: int) -> pl.DataFrame:
    known = [u for u in range(users) if u % 3 != 2]
    segments = rng.choice(["family", "single", "senior"], len(known)).tolist()
    return pl.DataFrame(
        {
            "user_id": [f"user-{u:03}" for u in known],
            "segment": [None if u % 5 == 4 else s for u, s in zip(known, segments, strict=True)],
            "household": [None if u % 7 == 6 else float(1 + u % 5) for u in known],
        },
        schema_overrides={"household": pl.Float64},
    )


def _calendar(rng: np.random.Generator, days: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "date": [FIRST_DAY + timedelta(days=n) for n in range(days)],
            "promotion": [float(promoted(n)) for n in range(days)],
            "temperature": 10.0 + 8.0 * np.sin(np.arange(days) / 58.0) + rng.normal(0, 2, days),
        }
    )


def _pages(
    rng: np.random.Generator,
    user: NDArray[np.int64],
    item: NDArray[np.int64],
    time: NDArray[np.int64],
    n_items: int,
) -> pl.DataFrame:
    """A page for every third purchase: it clicked, three more shown, one not shown."""
    rows = []
    for page, event in enumerate(range(0, len(user), 3)):
        others = [n for n in rng.permutation(n_items)[:5] if n != item[event]][:4]
        for place, shown in enumerate([int(item[event]), *map(int, others)]):
            rows.append(
                (f"page-{page}", int(user[event]), int(time[event]), shown, place < 4, place == 0)
            )
    names = ["page_id", "user_id", "time", "item_id", "shown", "clicked"]
    return pl.DataFrame(rows, schema=names, orient="row")


def _write(table: pl.DataFrame, folder: Path, name: str) -> None:
    table.write_parquet(folder / f"{name}.parquet")
