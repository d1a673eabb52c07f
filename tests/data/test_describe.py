import json
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from benchmarks.hashed_words import HashedWords
from engine.data.describe import describe, describe_table
from engine.data.prepare import prepare
from tests.shop import write_shop

DAY = 86_400


def write(folder: Path, rows: list[tuple[str, int, int]]) -> Path:
    folder.mkdir()
    pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row").write_parquet(
        folder / "events.parquet"
    )
    names = [f"item {n}" for n in range(10)]
    pl.DataFrame(
        {"item_id": range(10), "text": names, "name": names, "subclass": ["s"] * 6 + ["t"] * 4}
    ).write_parquet(folder / "items.parquet")
    pl.DataFrame({"user_id": ["a", "idle"], "age": [30, None]}).write_parquet(
        folder / "users.parquet"
    )
    return folder


def test_figures_of_a_shop_counted_by_hand(tmp_path: Path) -> None:
    rows = [
        *[("a", item, 0) for item in (0, 1, 2)],
        *[("a", item, DAY) for item in (0, 3)],  # one of two bought before
        *[("a", item, 3 * DAY) for item in (0, 3, 4, 5)],  # two of four
        *[("b", item, 2 * DAY) for item in (0, 0, 6)],
    ]
    figures = describe(prepare(write(tmp_path / "s", rows), tmp_path / "o", embedder=HashedWords()))
    assert figures["counts"] == {
        "users": 3, "items": 10, "events": 11, "sessions": 4, "subclasses": 2,
        "event_types": "purchase",
    }  # fmt: skip
    assert figures["dates"] == {
        "first": "1970-01-01", "last": "1970-01-04", "timezone": "UTC", "signals": "none",
    }  # fmt: skip
    assert figures["repeats"]["share_of_next_session_items_bought_before"] == 3 / 6
    assert figures["sizes"]["events_per_user"]["max"] == 9
    assert figures["sizes"]["sessions_per_user"] == {"p10": 0.2, "p50": 1, "p90": 2.6, "max": 3}
    assert figures["sizes"]["events_per_session"] == pytest.approx(
        {"p10": 2, "p50": 2.5, "p90": 3.7, "max": 4}
    )
    counts = sorted([4, 2, 1, 1, 1, 1, 1, 0, 0, 0])
    gini = sum(abs(a - b) for a in counts for b in counts) / (2 * 10 * sum(counts))
    assert figures["popularity"]["gini"] == pytest.approx(gini)
    assert figures["popularity"]["share_of_top_10_percent"] == 4 / 11
    assert figures["popularity"]["items_without_events"] == 3
    assert figures["items"]["share_of_items_with_tags"] == 0.6
    assert figures["users"] == {"features": "age", "share_of_users_with_features": 1 / 3}
    assert figures["impressions"] == {"same_page_negatives": "none, no impressions file"}


@pytest.mark.parametrize("with_time", [True, False])
def test_every_figure_is_json_and_has_a_row(tmp_path: Path, with_time: bool) -> None:
    source = write_shop(tmp_path / "s", with_time=with_time, impressions=True, days=40)
    figures = describe(prepare(source, tmp_path / "o", embedder=HashedWords()))
    assert json.loads(json.dumps(figures)) == figures
    table = describe_table(figures)
    assert table.row_count == sum(len(part) for part in figures.values() if isinstance(part, dict))
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    assert "share of next session items bought before" in captured.get()
    if not with_time:
        assert "every event is its own session" in captured.get()
        assert figures["counts"]["sessions"] == figures["counts"]["events"]
    assert figures["impressions"]["pages"] > 0
    assert 0.2 < figures["impressions"]["share_clicked"] < 0.3


def test_one_session_has_no_repeats(tmp_path: Path) -> None:
    source = write(tmp_path / "s", [("a", 0, 0)])
    figures = describe(prepare(source, tmp_path / "o", embedder=HashedWords()))
    assert figures["repeats"]["share_of_next_session_items_bought_before"] == 0.0
