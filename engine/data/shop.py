"""A shop's folder of Parquet files, read and checked against the schema.

events.parquet         user_id (string, or an integer), item_id (integer >= 0), time (unix seconds,
                       or a timestamp; naive is UTC) or order (integer >= 0), [event_type]
                       (string, default "purchase"); no other column
items.parquet          item_id (unique), text, name, subclass (strings), [available_from] (as time
                       or order; null = always), [tags] (list of strings); every further string,
                       integer, float or bool column is one to filter by, null = unknown
[users.parquet]        user_id (unique); further string and bool columns are categorical features,
                       number columns numeric ones, null = unknown
[calendar.parquet]     date (one row a day, without gaps, over all days that have events); further
                       number columns are signals known beforehand
[impressions.parquet]  page_id, user_id, time (or order), item_id, shown, clicked (bool)
[outcomes.parquet]     user_id, item_id, time (or order) of an event; each further bool column is an
                       outcome of it, known only afterwards: a label, never an input
[promotions.parquet]   item_id, first_day, last_day (local dates, both included; an item's do not
                       overlap); each further number column is a kind of promotion and its strength
[shop.json]            name (default: the folder's), timezone (IANA, default UTC)

A file in brackets may be missing, a column in brackets too. Where events have an order and no time,
every event is its own session and there is no calendar.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import ConfigError, DataError

from .clock import Clock
from .schema import Column, Kind, checked, convert, is_text, read_parquet, refusal, refuse_where

EVENTS, ITEMS, USERS = "events.parquet", "items.parquet", "users.parquet"
CALENDAR, IMPRESSIONS, OUTCOMES = "calendar.parquet", "impressions.parquet", "outcomes.parquet"
PROMOTIONS = "promotions.parquet"
SETTINGS = "shop.json"
FILES = (EVENTS, ITEMS, USERS, CALENDAR, IMPRESSIONS, OUTCOMES, PROMOTIONS, SETTINGS)
DEFAULT_EVENT_TYPE = "purchase"
_OPERATORS = ("and", "or", "not")


class ShopSettings(BaseModel):
    """shop.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    timezone: str = "UTC"


@dataclass(frozen=True)
class Shop:
    """The checked tables, each column in one type (`time` holds the order where there is no time).

    Attributes:
        events: user_id, item_id, time, event_type; rows as in the file.
        items: item_id ascending, text, name, subclass, available_from, tags (or null), then the
            filterable columns.
        users: user_id, then String (categorical) and Float64 (numeric) features.
        calendar: date ascending without gaps, then Float64 signals; None where there is none.
        impressions: page_id, user_id, time, item_id, clicked of the items shown; None likewise.
        outcomes: user_id, item_id, time, each once, then Boolean outcomes; None likewise.
        promotions: item_id, first_day, last_day, ascending, then Float64 kinds; None likewise.
    """

    settings: ShopSettings
    has_time: bool
    events: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    calendar: pl.DataFrame | None
    impressions: pl.DataFrame | None
    outcomes: pl.DataFrame | None
    promotions: pl.DataFrame | None

    @staticmethod
    def read(folder: Path) -> Shop:
        """Raises DataError, with file, row and column, for whatever breaks the schema."""
        settings = _read_settings(folder)
        events, has_time = _read_events(folder)
        items = _read_items(folder, "time" if has_time else "order")
        _refuse_unknown_items(events, items, EVENTS)
        calendar = None
        if (folder / CALENDAR).exists():
            if not has_time:
                raise DataError(f"{CALENDAR}: expected events with a time, got events with order")
            calendar = _read_calendar(folder, events, Clock(settings.timezone))
        impressions = outcomes = promotions = None
        if (folder / IMPRESSIONS).exists():
            impressions = _read_impressions(folder, "time" if has_time else "order", items)
        if (folder / OUTCOMES).exists():
            outcomes = _read_outcomes(folder, "time" if has_time else "order", events)
        if (folder / PROMOTIONS).exists():
            if not has_time:
                raise DataError(f"{PROMOTIONS}: expected events with a time, got events with order")
            promotions = _read_promotions(folder, items)
        users = events.select("user_id").clear()
        if (folder / USERS).exists():
            users = _read_users(folder)
        return Shop(
            settings, has_time, events, items, users, calendar, impressions, outcomes, promotions
        )


def _read_settings(folder: Path) -> ShopSettings:
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder with {EVENTS} and {ITEMS}, got none")
    path = folder / SETTINGS
    try:
        raw = json.loads(path.read_bytes()) if path.exists() else {}
        settings = ShopSettings.model_validate({"name": folder.name, **raw})
        Clock(settings.timezone)
    except (ValueError, TypeError, ValidationError, ConfigError) as error:
        raise DataError(f"{SETTINGS}: {error}") from error
    return settings


def _read_events(folder: Path) -> tuple[pl.DataFrame, bool]:
    """The events and whether they have a time."""
    frame = read_parquet(folder / EVENTS)
    clocks = [name for name in ("time", "order") if name in frame.columns]
    if len(clocks) != 1:
        raise DataError(
            f"{EVENTS} column time: expected exactly one of time and order, "
            f"got {' and '.join(clocks) or 'neither'}"
        )
    clock: Kind = "time" if clocks == ["time"] else "order"
    columns = checked(
        frame,
        [
            Column("user_id", "id"),
            Column("item_id", "item"),
            Column(clock, clock),
            Column("event_type", "string", required=False),
        ],
        EVENTS,
        others=False,
    )
    if frame.is_empty():
        raise DataError(f"{EVENTS}: expected at least one event, got none")
    event_type = columns.get("event_type", pl.lit(DEFAULT_EVENT_TYPE))
    events = pl.DataFrame([columns["user_id"], columns["item_id"], columns[clock].alias("time")])
    return events.with_columns(event_type=event_type), clock == "time"


def _read_items(folder: Path, clock: Kind) -> pl.DataFrame:
    frame = read_parquet(folder / ITEMS)
    fixed = [
        Column("item_id", "item"),
        Column("text", "string"),
        Column("name", "string"),
        Column("subclass", "string"),
        Column("available_from", clock, required=False, nullable=True),
        Column("tags", "strings", required=False, nullable=True),
    ]
    columns = checked(frame, fixed, ITEMS, others=True)
    if frame.is_empty():
        raise DataError(f"{ITEMS}: expected at least one item, got none")
    _refuse_duplicates(columns["item_id"], ITEMS)
    for name in frame.columns:
        if name in _OPERATORS:
            raise DataError(f"{ITEMS} column {name}: expected no operator's name (and, or, not)")
        if name not in columns:
            columns[name] = _filterable(frame[name], name)
    return pl.DataFrame(list(columns.values())).sort("item_id")


def _filterable(series: pl.Series, name: str) -> pl.Series:
    """A column to filter by, as String, Int64, Float64 or Boolean; null is unknown."""
    dtype = series.dtype
    if is_text(dtype):
        return series.cast(pl.String)
    if isinstance(dtype, pl.Boolean):
        return series
    if dtype.is_integer():
        return convert(series, Column(name, "integer", nullable=True), ITEMS)
    if dtype.is_float():
        return convert(series, Column(name, "number", nullable=True), ITEMS)
    raise DataError(f"{ITEMS} column {name}: expected string, integer, float or bool, got {dtype}")


def _read_users(folder: Path) -> pl.DataFrame:
    frame = read_parquet(folder / USERS)
    columns = checked(frame, [Column("user_id", "id")], USERS, others=True)
    _refuse_duplicates(columns["user_id"], USERS)
    for name in frame.columns:
        if name == "user_id":
            continue
        series = frame[name]
        if is_text(series.dtype) or isinstance(series.dtype, pl.Boolean):
            columns[name] = series.cast(pl.String)
        elif series.dtype.is_numeric():
            columns[name] = convert(series, Column(name, "number", nullable=True), USERS)
        else:
            raise DataError(
                f"{USERS} column {name}: expected string, bool or number, got {series.dtype}"
            )
    return pl.DataFrame(list(columns.values()))


def _read_calendar(folder: Path, events: pl.DataFrame, clock: Clock) -> pl.DataFrame:
    frame = read_parquet(folder / CALENDAR)
    spec = [Column("date", "date")]
    spec += [Column(name, "number") for name in frame.columns if name != "date"]
    columns = checked(frame, spec, CALENDAR, others=False)
    _refuse_duplicates(columns["date"], CALENDAR)
    calendar = pl.DataFrame(list(columns.values())).sort("date")
    gaps = calendar["date"].diff().dt.total_days().fill_null(1) != 1
    if gaps.any():
        after = calendar["date"][(gaps.arg_max() or 0) - 1]
        missing = after + timedelta(days=1)
        raise DataError(f"{CALENDAR} column date: expected every day, got no row for {missing}")
    days = clock.day(events["time"].to_numpy()).astype("datetime64[D]")
    first, last = np.datetime64(calendar["date"][0]), np.datetime64(calendar["date"][-1])
    outside = (days < first) | (days > last)
    if outside.any():
        day = days[outside.argmax()]
        raise DataError(
            f"{CALENDAR} column date: expected a row for every day with events, got none for {day}"
        )
    return calendar


def _read_impressions(folder: Path, clock: Kind, items: pl.DataFrame) -> pl.DataFrame:
    frame = read_parquet(folder / IMPRESSIONS)
    columns = checked(
        frame,
        [
            Column("page_id", "id"),
            Column("user_id", "id"),
            Column(clock, clock),
            Column("item_id", "item"),
            Column("shown", "bool"),
            Column("clicked", "bool"),
        ],
        IMPRESSIONS,
        others=False,
    )
    table = pl.DataFrame(list(columns.values())).rename({clock: "time"})
    _refuse_unknown_items(table, items, IMPRESSIONS)
    refuse_where(
        table["clicked"] & ~table["shown"], table["shown"], IMPRESSIONS, "shown", "true, as clicked"
    )
    first = table.select(pl.col("user_id", "time").first().over("page_id"))
    for name in ("user_id", "time"):
        differs = table[name] != first[name]
        refuse_where(differs, table[name], IMPRESSIONS, name, "one value for all rows of a page")
    again = ~table.select(pl.struct("page_id", "item_id").is_first_distinct()).to_series()
    refuse_where(again, table["item_id"], IMPRESSIONS, "item_id", "an item once a page")
    return table.filter("shown").drop("shown")


def _read_outcomes(folder: Path, clock: Kind, events: pl.DataFrame) -> pl.DataFrame:
    frame = read_parquet(folder / OUTCOMES)
    fixed = [Column("user_id", "id"), Column("item_id", "item"), Column(clock, clock)]
    names = [name for name in frame.columns if name not in {column.name for column in fixed}]
    if not names:
        raise DataError(f"{OUTCOMES}: expected a bool column for each outcome, got none")
    columns = checked(frame, [*fixed, *(Column(n, "bool") for n in names)], OUTCOMES, others=False)
    table = pl.DataFrame(list(columns.values())).rename({clock: "time"})
    event = ["user_id", "item_id", "time"]
    there = events.select(*event, there=True).unique()
    found = table.join(there, event, "left", maintain_order="left")["there"]
    refuse_where(found.is_null(), table["time"], OUTCOMES, clock, f"an event of {EVENTS}")
    return table.group_by(event).agg(pl.col(names).any())


def _read_promotions(folder: Path, items: pl.DataFrame) -> pl.DataFrame:
    frame = read_parquet(folder / PROMOTIONS)
    fixed = [Column("item_id", "item"), Column("first_day", "date"), Column("last_day", "date")]
    kinds = [name for name in frame.columns if name not in {column.name for column in fixed}]
    if not kinds:
        raise DataError(f"{PROMOTIONS}: expected a number column for each kind, got none")
    spec = [*fixed, *(Column(name, "number") for name in kinds)]
    table = pl.DataFrame(list(checked(frame, spec, PROMOTIONS, others=False).values()))
    _refuse_unknown_items(table, items, PROMOTIONS)
    ended = table["last_day"] < table["first_day"]
    refuse_where(ended, table["last_day"], PROMOTIONS, "last_day", "the first day or a later one")
    by_item = table.with_row_index("row").sort("item_id", "first_day")
    before = by_item.select(pl.col("last_day").shift(1).over("item_id")).to_series()
    overlaps = (by_item["first_day"] <= before).fill_null(False)
    again = table.select(pl.int_range(pl.len()).is_in(by_item.filter(overlaps)["row"].implode()))
    expected = "a day after the item's promotion before"
    refuse_where(again.to_series(), table["first_day"], PROMOTIONS, "first_day", expected)
    return by_item.drop("row")


def _refuse_unknown_items(table: pl.DataFrame, items: pl.DataFrame, file: str) -> None:
    unknown = ~table["item_id"].is_in(items["item_id"].implode())
    refuse_where(unknown, table["item_id"], file, "item_id", f"an item of {ITEMS}")


def _refuse_duplicates(series: pl.Series, file: str) -> None:
    again = ~series.is_first_distinct()
    if again.any():
        row = again.arg_max() or 0
        first = (series == series[row]).arg_max()
        expected = f"a value only once (first in row {first})"
        raise refusal(file, row, series.name, expected, series[row])
