"""Promotions by hand: of the request's week and the usual store, prices of before the cut."""

from datetime import date

import numpy as np
import polars as pl
import pytest

from engine.data.clock import DAY_S, Clock
from engine.data.dataset import Dataset
from engine.evaluation import lambdamart_promotions
from engine.evaluation.lambdamart_promotions import (
    FEATURES,
    Promotions,
    complete_journey_promotions,
)

MONDAY = (date(2024, 1, 1) - date(1970, 1, 1)).days
UTC = Clock("UTC")


def at(day: int) -> int:
    """Noon of a day counted from the first Monday."""
    return (MONDAY + day) * DAY_S + DAY_S // 2


@pytest.fixture
def promotions() -> Promotions:
    """Two weeks, two stores, three items. Week 1: store 0 shows item 2 in a display, store 1 has
    item 0 in the mailer. User 0 went to store 1 twice, then to store 0 three times."""
    shares = np.zeros((2, 2, 3), np.float32)
    shares[0, 1, 2] = shares[1, 1, 0] = 0.5
    return Promotions(
        first_day=MONDAY,
        offsets=np.array([0, 0, 0, 1, 2]),
        items=np.array([2, 0], np.int32),
        flags=np.array([1, 2], np.uint8),
        shares=shares,
        visit_user=np.array([0, 0, 0, 0, 0]),
        visit_time=np.array([at(0), at(1), at(2), at(8), at(9)]),
        visit_store=np.array([1, 1, 0, 0, 0]),
        price_item=np.array([2, 2, 2]),
        price_time=np.array([at(0), at(1), at(9)]),
        price=np.array([1.0, 2.0, 9.0], np.float32),
    )


def features(promotions: Promotions, cut: int, day: int, user: int = 0) -> dict[str, list[float]]:
    rows = promotions.features(
        cut, UTC, np.array([user]), np.array([at(day)]), np.array([3]), np.arange(3, dtype=np.int32)
    )
    return dict(zip(FEATURES, rows.T.tolist(), strict=True))


def test_the_usual_store_is_the_most_visited_before_the_cut(promotions: Promotions) -> None:
    who = np.array([0, 1])
    assert promotions.usual_store(at(5), who).tolist() == [1, -1]
    assert promotions.usual_store(at(20), who).tolist() == [0, -1]
    assert promotions.usual_store(at(8) + 1, who).tolist() == [0, -1]  # two each: the lower place
    assert promotions.usual_store(0, who).tolist() == [-1, -1]


def test_features_by_hand(promotions: Promotions) -> None:
    of = features(promotions, at(5), 7)
    assert of["in_display_at_usual_store"] == [0, 0, 0]
    assert of["in_mailer_at_usual_store"] == [1, 0, 0]
    assert of["share_of_stores_in_display"] == [0, 0, 0.5]
    assert of["share_of_stores_in_mailer"] == [0.5, 0, 0]
    assert of["usual_store_is_listed"] == [1, 1, 1]
    assert of["shelf_price"] == [-1, -1, 1.5]
    assert of["promoted_weeks_of_last_4"] == [0, 0, 0]
    assert features(promotions, at(20), 13)["in_display_at_usual_store"] == [0, 0, 1]
    assert features(promotions, at(20), 13)["shelf_price"] == [-1, -1, 4]


def test_the_week_begins_on_monday(promotions: Promotions) -> None:
    names = [name for name in FEATURES if name != "shelf_price"]
    sunday = features(promotions, at(5), 6)
    assert all(sunday[name] == [0, 0, 0] for name in names)


def test_a_week_without_a_listing_promotes_nothing(promotions: Promotions) -> None:
    for day in (-1, 14):
        of = features(promotions, at(20), day)
        assert all(sum(of[name]) == 0 for name in FEATURES[:5])
    after = features(promotions, at(20), 14)["promoted_weeks_of_last_4"]
    assert after == [1, 0, 1]


def test_a_stranger_has_no_usual_store_but_the_shares(promotions: Promotions) -> None:
    of = features(promotions, at(20), 8, user=1)
    assert of["in_display_at_usual_store"] == of["usual_store_is_listed"] == [0, 0, 0]
    assert of["share_of_stores_in_display"] == [0, 0, 0.5]


def test_complete_journeys_tables(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that stand twice are united; what is neither displayed nor mailed is no promotion."""
    first, second, *_ = dataset.item_ids.tolist()
    rows = [
        (2, first, 30, "0", "A"),
        (2, first, 30, "7", "0"),
        (2, second, 30, "0", "0"),
        (2, second, 31, "9", "0"),
        (3, 999_999, 30, "9", "0"),
    ]
    names = ["week", "product_id", "store_id", "display_location", "mailer_location"]
    table = pl.DataFrame(rows, names, orient="row").lazy()
    bought = pl.DataFrame(
        {
            "user_id": ["user-001"] * 3,
            "item_id": [first, second, second],
            "time": [10, 10, 20],
            "store_id": [31, 31, 29],
            "unit_price": [1.5, None, 2.5],
        }
    )
    monkeypatch.setattr(lambdamart_promotions, "_table", lambda name: table)
    monkeypatch.setattr(lambdamart_promotions, "read_purchases", lambda: bought)
    made = complete_journey_promotions(dataset)
    stores = 3  # 29, 30, 31
    assert np.diff(made.offsets)[stores : 2 * stores].tolist() == [0, 1, 1]
    assert made.items.tolist() == [0, 1]
    assert made.flags.tolist() == [3, 1]
    assert made.shares[:, 1, :2].tolist() == [[0.5, 0.5], [0.5, 0]]
    assert made.visit_user.tolist() == [1, 1]
    assert made.visit_store.tolist() == [2, 0]
    assert made.price_item.tolist() == [0, 1]
    assert made.price.tolist() == [1.5, 2.5]
    assert str(np.datetime64(made.first_day, "D")) == "2016-12-26"
