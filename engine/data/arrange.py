"""The tables of a shop as the flat arrays of a dataset."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from .clock import Clock
from .dataset import ALWAYS, NumericFeature
from .shop import Shop


class Events(NamedTuple):
    """Events by user and time, as Dataset holds them; names of their types and outcomes."""

    types: list[str]
    outcomes: list[str]
    offsets: NDArray[np.int64]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    type: NDArray[np.int32]
    session: NDArray[np.int32]
    outcome: NDArray[np.bool_]


def events(shop: Shop, user_ids: pl.Series, seed: int) -> Events:
    """Events by user and time, shuffled inside equal times, once a (session, item, type).

    What came of any of those that become one came of it.
    """
    table = shop.events
    outcomes, outcome = _outcomes(shop)
    user = _places(table["user_id"], user_ids)
    item = _places(table["item_id"], shop.items["item_id"])
    types, kind = codes(table["event_type"])
    time = table["time"].to_numpy()

    # From one order whatever the file's, so that the shuffle depends on the seed alone.
    order = np.lexsort((kind, item, time, user))
    shuffle = np.random.default_rng(seed).random(len(order))
    order = order[np.lexsort((shuffle, time[order], user[order]))]
    user, item, kind, time, outcome = (a[order] for a in (user, item, kind, time, outcome))

    starts = np.ones(len(user), bool)
    if shop.has_time:
        day = Clock(shop.settings.timezone).day(time)
        starts[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
    session = np.cumsum(starts) - 1
    key = (session * shop.items.height + item) * len(types) + kind
    _, first, place = np.unique(key, return_index=True, return_inverse=True)
    any_of = np.zeros((len(first), outcome.shape[1]), bool)
    np.logical_or.at(any_of, place, outcome)
    in_order = np.argsort(first)
    kept, any_of = first[in_order], any_of[in_order]
    user, item, kind, time, session = (a[kept] for a in (user, item, kind, time, session))

    offsets = np.searchsorted(user, np.arange(len(user_ids) + 1)).astype(np.int64)
    first_session = session[np.minimum(offsets[:-1], len(session) - 1)]
    return Events(
        types=types,
        outcomes=outcomes,
        offsets=offsets,
        item=item.astype(np.int32),
        time=time,
        type=kind,
        session=(session - first_session[user]).astype(np.int32),
        outcome=any_of,
    )


def _outcomes(shop: Shop) -> tuple[list[str], NDArray[np.bool_]]:
    """Names of the outcomes, and [events, L] of the events as the file has them."""
    if shop.outcomes is None:
        return [], np.empty((shop.events.height, 0), bool)
    key = ["user_id", "item_id", "time"]
    names = [name for name in shop.outcomes.columns if name not in key]
    found = shop.events.join(shop.outcomes, key, "left", maintain_order="left").select(names)
    return names, found.fill_null(False).to_numpy()


class Announced(NamedTuple):
    """Fields of `engine.promotions.Promotions`, and the names of the kinds."""

    kinds: list[str]
    offsets: NDArray[np.int64]
    first_day: NDArray[np.int32]
    last_day: NDArray[np.int32]
    strength: NDArray[np.float32]


def promotions(shop: Shop) -> Announced:
    """What is promoted when, by item; none where the shop says nothing of it."""
    item_ids = shop.items["item_id"].to_numpy()
    table = shop.promotions
    if table is None:
        none = np.zeros(0, np.int32)
        offsets = np.zeros(len(item_ids) + 1, np.int64)
        return Announced([], offsets, none, none, np.zeros((0, 0), np.float32))
    kinds = [name for name in table.columns if name not in ("item_id", "first_day", "last_day")]
    place = np.searchsorted(item_ids, table["item_id"].to_numpy())
    days = (table[name].to_physical().to_numpy() for name in ("first_day", "last_day"))
    first_day, last_day = (day.astype(np.int32) for day in days)
    offsets = np.searchsorted(place, np.arange(len(item_ids) + 1)).astype(np.int64)
    strength = table.select(kinds).to_numpy().astype(np.float32)
    return Announced(kinds, offsets, first_day, last_day, strength)


def users(shop: Shop) -> pl.DataFrame:
    """One row for everyone with events, a profile or impressions, ascending by name."""
    named = [shop.events["user_id"], shop.users["user_id"]]
    if shop.impressions is not None:
        named.append(shop.impressions["user_id"])
    everyone = pl.concat(named).unique().to_frame()
    # Python orders strings by code point, as UTF-8 orders their bytes.
    return everyone.join(shop.users, on="user_id", how="left").sort("user_id")


def categorical(users: pl.DataFrame) -> tuple[dict[str, list[str]], NDArray[np.int32]]:
    """Values of each string feature and their codes [U, C], 0 for unknown."""
    names = [n for n, dtype in users.schema.items() if dtype == pl.String and n != "user_id"]
    values = {name: users[name].drop_nulls().unique().sort() for name in names}
    codes = [
        (_places(users[name], values[name]) + 1) if len(values[name]) else np.zeros(users.height)
        for name in names
    ]
    table = np.column_stack(codes) if codes else np.empty((users.height, 0))
    return {name: values[name].to_list() for name in names}, table.astype(np.int32)


def numeric(users: pl.DataFrame) -> tuple[list[NumericFeature], NDArray[np.float32]]:
    """Each number feature, standardised over those who have it [U, M]; NaN for unknown."""
    names = [name for name, dtype in users.schema.items() if dtype == pl.Float64]
    raw = [users[name].fill_null(np.nan).to_numpy() for name in names]
    return _standardised(names, raw, users.height)


def signals(
    calendar: pl.DataFrame | None,
) -> tuple[list[NumericFeature], int, NDArray[np.float32]]:
    """Features, first day and standardised rows [days, S] of the calendar."""
    if calendar is None:
        return [], 0, np.empty((0, 0), np.float32)
    names = [name for name in calendar.columns if name != "date"]
    features, rows = _standardised(
        names, [calendar[name].to_numpy() for name in names], calendar.height
    )
    first_day = int(np.datetime64(calendar["date"][0], "D").astype(np.int64))
    return features, first_day, rows


def _standardised(
    names: list[str], raw: list[NDArray[np.float64]], n_rows: int
) -> tuple[list[NumericFeature], NDArray[np.float32]]:
    features, columns = [], []
    for name, values in zip(names, raw, strict=True):
        known = values[~np.isnan(values)]
        mean = float(known.mean()) if len(known) else 0.0
        # A constant tells nothing: it becomes 0 instead of a division by 0 or by rounding.
        std = float(known.std()) if len(known) else 0.0
        std = std if std > 1e-9 * max(1.0, abs(mean)) else 1.0
        features.append(NumericFeature(name=name, mean=mean, std=std))
        columns.append((values - mean) / std)
    table = np.column_stack(columns) if columns else np.empty((n_rows, 0))
    return features, table.astype(np.float32)


class Impressions(NamedTuple):
    """Pages by user and time; the items of page p are `item[offsets[p]:offsets[p + 1]]`."""

    user: NDArray[np.int32]
    time: NDArray[np.int64]
    offsets: NDArray[np.int64]
    item: NDArray[np.int32]
    clicked: NDArray[np.bool_]


def impressions(shop: Shop, user_ids: pl.Series) -> Impressions:
    """What was shown, page by page; empty where the shop has no impressions."""
    table = shop.impressions
    if table is None:
        none = np.empty(0, np.int32)
        return Impressions(
            none, none.astype(np.int64), np.zeros(1, np.int64), none, none.astype(np.bool_)
        )
    table = table.with_columns(
        user=pl.Series(_places(table["user_id"], user_ids), dtype=pl.Int32),
        item=pl.Series(_places(table["item_id"], shop.items["item_id"]), dtype=pl.Int32),
    ).sort("user", "time", "page_id", "item")
    pages = table.group_by("page_id", maintain_order=True).agg(
        pl.col("user", "time").first(), n=pl.len()
    )
    return Impressions(
        user=pages["user"].to_numpy(),
        time=pages["time"].to_numpy(),
        offsets=np.concatenate([[0], np.cumsum(pages["n"].to_numpy())]).astype(np.int64),
        item=table["item"].to_numpy(),
        clicked=table["clicked"].to_numpy(),
    )


def available_from(items: pl.DataFrame) -> NDArray[np.int64]:
    if "available_from" not in items.columns:
        return np.full(items.height, ALWAYS, np.int64)
    return items["available_from"].fill_null(ALWAYS).to_numpy()


def codes(series: pl.Series) -> tuple[list[str], NDArray[np.int32]]:
    """The distinct values, ascending, and the place of each value among them."""
    values = series.unique().sort()
    return values.to_list(), _places(series, values).astype(np.int32)


def _places(series: pl.Series, values: pl.Series) -> NDArray[np.int64]:
    """Place of each value of `series` in `values` (distinct); -1 for null."""
    lookup = pl.DataFrame({"value": values, "place": pl.arange(len(values), eager=True)})
    placed = (
        series.alias("value").to_frame().join(lookup, on="value", how="left", maintain_order="left")
    )
    return placed["place"].fill_null(-1).to_numpy().astype(np.int64)
