"""What users and items are known for when a request begins: rates of their earlier days."""

import polars as pl

from .impressions import LABEL, Impressions

_DAY_S = 86400
PAST = "past_"


def with_past(log: Impressions, strength: float = 20.0) -> Impressions:
    """With features `past_user_*` and `past_item_*`: log-odds of each label, and log(1 + rows).

    They count rows of requests that began on an earlier day (UTC), so that no request sees its own
    answers. A rate is drawn to that of the same days over all by `strength` rows.
    """
    start = pl.col("time").min().over("request_id") // _DAY_S
    frame = log.frame.with_columns(start.alias("day"))
    days = frame.select("day").unique().sort("day")
    everyone = _before(frame, days, [])
    for who in ("user", "item"):
        key = f"{who}_id"
        grid = frame.select(key).unique().join(days, how="cross")
        known = _before(frame, grid.sort(key, "day"), [key]).join(
            everyone, "day", suffix="_all", maintain_order="left"
        )
        odds = []
        for m in log.objectives:
            # Half a row of each class keeps the first day's odds finite.
            rate = (pl.col(f"{m}_all") + 0.5) / (pl.col("rows_all") + 1)
            smooth = (pl.col(m) + strength * rate) / (pl.col("rows") + strength)
            odds.append((smooth / (1 - smooth)).log().alias(f"{PAST}{who}_{m}"))
        rows = pl.col("rows").log1p().alias(f"{PAST}{who}_rows")
        known = known.select(key, "day", rows, *odds)
        frame = frame.join(known, [key, "day"], "left", maintain_order="left")
    return Impressions(frame.drop("day"))


def _before(frame: pl.DataFrame, grid: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Sums of labels and rows over earlier days, for a grid sorted by keys and day."""
    labels = pl.col(f"^{LABEL}.*$").sum().name.map(lambda name: name.removeprefix(LABEL))
    daily = frame.group_by(*keys, "day").agg(labels, pl.len().alias("rows"))
    sums = grid.join(daily, [*keys, "day"], "left", maintain_order="left").with_columns(
        pl.exclude(*keys, "day").fill_null(0).cast(pl.Int64)
    )
    counts = pl.exclude(*keys, "day")
    running = counts.cum_sum().over(keys) if keys else counts.cum_sum()
    return sums.with_columns(running - counts)
