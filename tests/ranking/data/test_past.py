"""What is known of users and items when a request begins, against sums written out."""

import numpy as np
import polars as pl
import pytest

from engine.ranking.data.impressions import Impressions
from engine.ranking.data.past import with_past

DAY = 86400


def log(seed: int = 0, n: int = 300) -> Impressions:
    rng = np.random.default_rng(seed)
    user, day = rng.integers(0, 9, n), rng.integers(100, 106, n)
    return Impressions.of(
        pl.DataFrame(
            {
                "request_id": [f"{u}/{d}" for u, d in zip(user, day, strict=True)],
                "user_id": user, "item_id": rng.integers(0, 20, n),
                "time": day * DAY + rng.integers(0, DAY, n),
                "label_a": rng.random(n) < 0.4, "label_b": rng.random(n) < 0.1,
                "hour": rng.integers(0, 24, n),
            }
        ),
        "f",
    )  # fmt: skip


def test_rates_are_those_of_earlier_days() -> None:
    made = with_past(log(), strength=5.0)
    rows = made.frame.with_columns(day=pl.col("time") // DAY)
    for row in rows.sample(40, seed=1).iter_rows(named=True):
        everyone = rows.filter(pl.col("day") < row["day"])
        for who in ("user", "item"):
            known = everyone.filter(pl.col(f"{who}_id") == row[f"{who}_id"])
            assert row[f"past_{who}_rows"] == pytest.approx(np.log1p(len(known)))
            for m in "ab":
                overall = (everyone[f"label_{m}"].sum() + 0.5) / (len(everyone) + 1)
                rate = (known[f"label_{m}"].sum() + 5 * overall) / (len(known) + 5)
                assert row[f"past_{who}_{m}"] == pytest.approx(np.log(rate / (1 - rate)))


def test_a_requests_own_answers_and_later_ones_change_nothing() -> None:
    before = log()
    day = before.frame["time"] // DAY
    flipped = Impressions(
        before.frame.with_columns(
            label_a=pl.when(day >= 103).then(~pl.col("label_a")).otherwise("label_a")
        )
    )
    a, b = with_past(before), with_past(flipped)
    past = [name for name in a.features if name.startswith("past_")]
    same = (day <= 103).to_numpy()
    old, new = (x.frame.select(past).to_numpy() for x in (a, b))
    np.testing.assert_array_equal(old[same], new[same])
    assert (old[~same] != new[~same]).any()


def test_a_request_past_midnight_counts_by_its_first_day() -> None:
    frame = pl.DataFrame(
        {
            "request_id": ["r", "r", "s"], "user_id": ["u"] * 3, "item_id": [1, 1, 1],
            "time": [2 * DAY - 10, 2 * DAY + 10, 3 * DAY], "label_a": [True, True, False],
        }
    )  # fmt: skip
    made = with_past(Impressions.of(frame, "f"))
    assert np.expm1(made.frame["past_user_rows"].to_numpy()) == pytest.approx([0, 0, 2])


def test_rows_and_columns_stay() -> None:
    before = log()
    made = with_past(before)
    assert made.frame.select(before.frame.columns).equals(before.frame)
    assert made.features == (
        "hour", "past_user_rows", "past_user_a", "past_user_b",
        "past_item_rows", "past_item_a", "past_item_b",
    )  # fmt: skip
