"""Every rule of the Parquet schema, with the error that a file gets which breaks it."""

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from engine.data.shop import Shop
from engine.errors import DataError
from tests.shop import write_shop

Change = Callable[[pl.DataFrame], pl.DataFrame]


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(
        tmp_path_factory.mktemp("schema") / "shop",
        users=6,
        items=20,
        days=60,
        impressions=True,
        outcomes=True,
        promotions=True,
    )


@pytest.fixture
def shop(whole: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    for path in whole.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(folder: Path, file: str, how: Change) -> None:
    path = folder / f"{file}.parquet"
    how(pl.read_parquet(path)).write_parquet(path)


def put(column: str, row: int, value: object) -> Change:
    """Replaces one cell."""

    def how(frame: pl.DataFrame) -> pl.DataFrame:
        values = frame[column].to_list()
        values[row] = value
        return frame.with_columns(pl.Series(column, values, dtype=frame[column].dtype))

    return how


def drop(*columns: str) -> Change:
    return lambda frame: frame.drop(columns)


def add(**columns: object) -> Change:
    return lambda frame: frame.with_columns(**{n: pl.lit(v) for n, v in columns.items()})


def cast(column: str, dtype: type[pl.DataType] | pl.DataType) -> Change:
    return lambda frame: frame.with_columns(pl.col(column).cast(dtype))


# ruff: noqa: E501
BROKEN: list[tuple[str, Change, str]] = [
    ("events", drop("item_id"), "events.parquet column item_id: expected an integer, got no such"),
    ("events", drop("user_id"), "events.parquet column user_id: expected a string or an integer"),
    ("events", drop("time"), "events.parquet column time: expected exactly one of time and order, got neither"),
    ("events", add(order=1), "expected exactly one of time and order, got time and order"),
    ("events", add(price=1.0), "events.parquet column price: expected only user_id, item_id, time, event_type, got an unknown column"),
    ("events", cast("item_id", pl.Float64), "events.parquet column item_id: expected an integer, got Float64"),
    ("events", cast("time", pl.Float64), "events.parquet column time: expected unix seconds as an integer, or a timestamp, got Float64"),
    ("events", cast("user_id", pl.Binary), "events.parquet column user_id: expected a string or an integer, got Binary"),
    ("events", put("user_id", 3, None), "events.parquet row 3 column user_id: expected a string or an integer, got None"),
    ("events", put("user_id", 4, ""), "events.parquet row 4 column user_id: expected a name without NUL, not empty, got ''"),
    ("events", put("user_id", 4, "a\0"), "row 4 column user_id: expected a name without NUL"),
    ("events", put("item_id", 2, 5), "events.parquet row 2 column item_id: expected an item of items.parquet, got 5"),
    ("events", put("item_id", 2, -1), "events.parquet row 2 column item_id: expected an integer of at least 0, got -1"),
    ("events", put("item_id", 2, None), "events.parquet row 2 column item_id: expected an integer, got None"),
    ("events", put("time", 1, -5), "events.parquet row 1 column time: expected unix seconds from 1970 to 2100, got -5"),
    ("events", put("time", 1, 1_704_085_200_000), "events.parquet row 1 column time: expected unix seconds from 1970 to 2100"),
    ("events", lambda f: f.with_columns(item_id=pl.Series([2**64 - 1] * len(f), dtype=pl.UInt64)), "row 0 column item_id: expected an integer within 64 bits, got 18446744073709551615"),
    ("events", add(event_type=1), "events.parquet column event_type: expected a string, got Int32"),
    ("events", add(event_type=" "), "events.parquet row 0 column event_type: expected no blank, got ' '"),
    ("events", lambda f: f.clear(), "events.parquet: expected at least one event, got none"),
    ("items", drop("text"), "items.parquet column text: expected a string, got no such column"),
    ("items", drop("name"), "items.parquet column name: expected a string, got no such column"),
    ("items", drop("subclass"), "items.parquet column subclass: expected a string, got no such"),
    ("items", put("text", 7, None), "items.parquet row 7 column text: expected a string, got None"),
    ("items", put("name", 7, "  "), "items.parquet row 7 column name: expected no blank, got '  '"),
    ("items", put("item_id", 7, 1000), "items.parquet row 7 column item_id: expected a value only once (first in row 0), got 1000"),
    ("items", put("price", 2, float("inf")), "items.parquet row 2 column price: expected a finite number, got inf"),
    ("items", put("price", 2, float("nan")), "items.parquet row 2 column price: expected a finite number, got nan"),
    ("items", put("available_from", 2, -1), "items.parquet row 2 column available_from: expected unix seconds from 1970"),
    ("items", add(**{"and": 1}), "items.parquet column and: expected no operator's name (and, or, not)"),
    ("items", add(**{"not": True}), "items.parquet column not: expected no operator's name"),
    ("items", add(when=date(2024, 1, 1)), "items.parquet column when: expected string, integer, float or bool, got Date"),
    ("items", add(tags="vegan"), "items.parquet column tags: expected a list of strings, got String"),
    ("items", lambda f: f.with_columns(tags=pl.Series([["vegan", None]] * len(f))), "items.parquet row 0 column tags: expected a list without nulls"),
    ("items", lambda f: f.clear(), "items.parquet: expected at least one item, got none"),
    ("users", drop("user_id"), "users.parquet column user_id: expected a string or an integer"),
    ("users", put("user_id", 2, "user-000"), "users.parquet row 2 column user_id: expected a value only once (first in row 0)"),
    ("users", put("household", 2, float("-inf")), "users.parquet row 2 column household: expected a finite number"),
    ("users", add(born=date(1990, 1, 1)), "users.parquet column born: expected string, bool or number, got Date"),
    ("calendar", drop("date"), "calendar.parquet column date: expected a date, got no such column"),
    ("calendar", cast("date", pl.String), "calendar.parquet column date: expected a date, got String"),
    ("calendar", cast("promotion", pl.String), "calendar.parquet column promotion: expected a number, got String"),
    ("calendar", put("promotion", 5, None), "calendar.parquet row 5 column promotion: expected a number, got None"),
    ("calendar", put("promotion", 5, float("nan")), "calendar.parquet row 5 column promotion: expected a finite number"),
    ("calendar", put("date", 5, date(2024, 1, 1)), "calendar.parquet row 5 column date: expected a value only once"),
    ("calendar", lambda f: pl.concat([f[:5], f[6:]]), "calendar.parquet column date: expected every day, got no row for 2024-01-06"),
    ("calendar", lambda f: f[:10], "calendar.parquet column date: expected a row for every day with events, got none for 2024-01-"),
    ("outcomes", drop("time"), "outcomes.parquet column time: expected unix seconds as an integer, or a timestamp, got no such"),
    ("outcomes", drop("promoted", "coupon"), "outcomes.parquet: expected a bool column for each outcome, got none"),
    ("outcomes", add(spent=1.5), "outcomes.parquet column spent: expected a bool, got Float64"),
    ("outcomes", put("coupon", 2, None), "outcomes.parquet row 2 column coupon: expected a bool, got None"),
    ("promotions", drop("last_day"), "promotions.parquet column last_day: expected a date, got no such"),
    ("promotions", drop("offer"), "promotions.parquet: expected a number column for each kind, got none"),
    ("promotions", put("offer", 1, None), "promotions.parquet row 1 column offer: expected a number, got None"),
    ("promotions", put("item_id", 1, 5), "promotions.parquet row 1 column item_id: expected an item of items.parquet, got 5"),
    ("promotions", put("last_day", 1, date(2024, 1, 1)), "promotions.parquet row 1 column last_day: expected the first day or a later one, got "),
    ("promotions", put("first_day", 1, date(2024, 1, 28)), "promotions.parquet row 1 column first_day: expected a day after the item's promotion before, got "),
    ("outcomes", put("item_id", 4, 5), "outcomes.parquet row 4 column time: expected an event of events.parquet, got "),
    ("impressions", drop("shown"), "impressions.parquet column shown: expected a bool, got no such"),
    ("impressions", cast("shown", pl.Int8), "impressions.parquet column shown: expected a bool, got Int8"),
    ("impressions", add(place=1), "impressions.parquet column place: expected only page_id, user_id"),
    ("impressions", put("page_id", 6, None), "impressions.parquet row 6 column page_id: expected a string or an integer, got None"),
    ("impressions", put("item_id", 6, 5), "impressions.parquet row 6 column item_id: expected an item of items.parquet, got 5"),
    ("impressions", put("shown", 5, False), "impressions.parquet row 5 column shown: expected true, as clicked, got False"),
    ("impressions", put("user_id", 6, "x"), "impressions.parquet row 6 column user_id: expected one value for all rows of a page, got 'x'"),
    ("impressions", put("time", 6, 77), "impressions.parquet row 6 column time: expected one value for all rows of a page, got 77"),
    ("impressions", lambda f: put("item_id", 6, f["item_id"][5])(f), "impressions.parquet row 6 column item_id: expected an item once a page"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "how", "message"), BROKEN)
def test_what_breaks_the_schema_is_refused(
    shop: Path, file: str, how: Change, message: str
) -> None:
    change(shop, file, how)
    with pytest.raises(DataError, match=re.escape(message)):
        Shop.read(shop)


@pytest.mark.parametrize("name", ["events", "items"])
def test_a_missing_file_is_refused(shop: Path, name: str) -> None:
    (shop / f"{name}.parquet").unlink()
    with pytest.raises(DataError, match=f"{name}.parquet: expected a Parquet file, got none"):
        Shop.read(shop)


def test_a_file_that_is_no_parquet_is_refused(shop: Path) -> None:
    (shop / "events.parquet").write_text("user_id,item_id\n")
    with pytest.raises(DataError, match=r"events.parquet: expected a Parquet file: "):
        Shop.read(shop)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: expected a folder with events.parquet"):
        Shop.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"name": "x", "timezone": "Mars/Base"}', "expected an IANA name, got 'Mars/Base'"),
        ('{"name": "x", "zone": "UTC"}', "Extra inputs are not permitted"),
        ('{"name": 3}', "valid string"),
        ("[1]", "shop.json: "),
        ("{", "shop.json: "),
    ],
)
def test_broken_settings_are_refused(shop: Path, settings: str, message: str) -> None:
    (shop / "shop.json").write_text(settings)
    with pytest.raises(DataError, match=message):
        Shop.read(shop)


def test_a_calendar_needs_times(shop: Path) -> None:
    change(shop, "events", lambda f: f.rename({"time": "order"}))
    with pytest.raises(DataError, match=r"calendar.parquet: expected events with a time"):
        Shop.read(shop)


def test_optional_files_and_columns_have_defaults(shop: Path) -> None:
    for name in (
        "users.parquet",
        "calendar.parquet",
        "impressions.parquet",
        "outcomes.parquet",
        "promotions.parquet",
        "shop.json",
    ):
        (shop / name).unlink()
    change(shop, "items", drop("available_from"))
    read = Shop.read(shop)
    assert (read.settings.name, read.settings.timezone) == ("shop", "UTC")
    assert read.events["event_type"].unique().to_list() == ["purchase"]
    assert read.users.columns == ["user_id"]
    assert (read.calendar, read.impressions, read.outcomes) == (None, None, None)
    assert read.promotions is None


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Asia/Tokyo"])
def test_timestamps_become_unix_seconds(shop: Path, unit: str, zone: str | None) -> None:
    before = Shop.read(shop).events
    stamp = pl.from_epoch("time").dt.cast_time_unit(unit)  # type: ignore[arg-type]
    if zone is not None:
        stamp = stamp.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    change(shop, "events", lambda f: f.with_columns(time=stamp))
    assert Shop.read(shop).events.equals(before)


def test_other_integer_types_and_categories_are_taken(shop: Path) -> None:
    before = Shop.read(shop)
    change(shop, "events", cast("item_id", pl.Int32))
    change(shop, "events", cast("user_id", pl.Categorical))
    change(shop, "items", cast("brand", pl.Categorical))
    change(shop, "items", cast("pack", pl.UInt8))
    after = Shop.read(shop)
    assert after.events.equals(before.events)
    assert after.items.equals(before.items)


def test_integer_user_ids_become_strings(shop: Path) -> None:
    for name in ("events", "users", "impressions", "outcomes"):
        change(shop, name, lambda f: f.with_columns(pl.col("user_id").str.slice(5).cast(pl.Int16)))
    assert Shop.read(shop).events["user_id"].unique().sort().to_list() == list("012345")
    assert set(Shop.read(shop).users["user_id"]) <= set("012345")
