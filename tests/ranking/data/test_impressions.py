"""The schema of impressions: what it takes, what it refuses, and how it is split."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.errors import DataError
from engine.ranking.data.impressions import Impressions

GOOD = {
    "request_id": ["b", "a", "b", "c"],
    "user_id": [2, 1, 2, 1],
    "item_id": [7, 8, 9, 7],
    "time": [30, 10, 20, 40],
    "label_click": [True, False, True, False],
    "label_gift": [False, False, True, False],
    "outcome_watch_ms": [5, None, 6, None],
    "hour": [1, 2, None, 4],
}


def frame(**changes: object) -> pl.DataFrame:
    return pl.DataFrame(GOOD | changes)


def test_rows_come_in_order_of_time_with_their_parts_named(tmp_path: Path) -> None:
    frame().write_parquet(tmp_path / "i.parquet")
    found = Impressions.read(tmp_path / "i.parquet")
    assert found.objectives == ("click", "gift")
    assert found.features == ("hour",)
    assert found.time.tolist() == [10, 20, 30, 40]
    assert found.item.tolist() == [8, 9, 7, 7]
    assert found.request.tolist() == [0, 1, 1, 2]
    assert found.user.tolist() == [0, 1, 1, 0]
    np.testing.assert_array_equal(found.labels, [[0, 0], [1, 1], [1, 0], [0, 0]])


def test_a_split_keeps_requests_whole() -> None:
    found = Impressions.of(frame(), "f")
    early, late = found.between(0, 25), found.between(25, 100)
    assert early.frame["request_id"].to_list() == ["a", "b", "b"]
    assert late.frame["request_id"].to_list() == ["c"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_click": [1, 0, 1, 0]}, "f column label_click: expected a bool, got Int64"),
        ({"label_gift": [True, None, True, True]},
         "f row 1 column label_gift: expected a bool, got None"),
        ({"user_id": [2, 1, 3, 1]},
         "f row 2 column user_id: expected the user of request 'b''s first row, got '3'"),
        ({"item_id": [7, -1, 9, 7]},
         "f row 1 column item_id: expected an integer of at least 0, got -1"),
        ({"outcome_watch_ms": ["x", None, "y", None]},
         "f column outcome_watch_ms: expected a number, got String"),
    ],
)  # fmt: skip
def test_what_breaks_the_schema_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as error:
        Impressions.of(frame(**changes), "f")
    assert str(error.value) == message


def test_an_objective_is_required() -> None:
    bare = frame().drop("label_click", "label_gift")
    with pytest.raises(DataError, match=r"^f: expected a column label_\* for each objective, got"):
        Impressions.of(bare, "f")
    with pytest.raises(DataError, match=r"f column time: expected unix seconds .* no such column"):
        Impressions.of(frame().drop("time"), "f")
