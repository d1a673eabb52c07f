import numpy as np
import polars as pl
import pytest

from engine.errors import DataError
from engine.ranking.data.impressions import Impressions
from engine.ranking.sarm.anchors import (
    FIELDS,
    LIVE,
    SHORT_VIDEO,
    author_column,
    checked_anchors,
    in_force,
    metadata_of,
    templated,
)


def anchors(author: list[int], time: list[int], **texts: list[str | None]) -> pl.DataFrame:
    columns = {name: texts.get(name, [""] * len(author)) for name in FIELDS}
    schema = dict.fromkeys(FIELDS, pl.String)
    frame = pl.DataFrame({"author_id": author, "time": time, **columns}, schema_overrides=schema)
    return frame.select("author_id", "time", *FIELDS)


def test_a_table_is_in_order_its_texts_whole() -> None:
    found = checked_anchors(anchors([2, 1, 1], [5, 9, 3], theme=[" food ", None, "x"]), "a")
    assert found.select("author_id", "time", "theme").rows() == [
        (1, 3, "x"), (1, 9, ""), (2, 5, "food"),
    ]  # fmt: skip
    assert not any(found.null_count().row(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "scene"}, "a column scene: expected a string, got no such column"),
        ({"time": [1, 1]}, "a row 0 column author_id: expected one anchor for each time, got 1"),
        ({"author": [-1, 1]}, "a row 0 column author_id: expected an integer of at least 0"),
        ({"more": "mood"}, "a column mood: expected only .*, got an unknown column"),
    ],
)
def test_a_broken_table_is_refused(change: dict[str, object], message: str) -> None:
    frame = anchors(change.get("author", [1, 1]), change.get("time", [1, 2]))  # type: ignore[arg-type]
    if "drop" in change:
        frame = frame.drop(str(change["drop"]))
    if "more" in change:
        frame = frame.with_columns(pl.lit("x").alias(str(change["more"])))
    with pytest.raises(DataError, match=message):
        checked_anchors(frame, "a")


def test_templates_fill_and_keep_changes_alone() -> None:
    metadata = pl.DataFrame(
        {
            "author_id": [1, 1, 1, 2],
            "time": [1, 2, 3, 1],
            "kind": ["a", "a", "b", None],
            "n": [1] * 4,
        }
    )
    found = templated(metadata, {"theme": "{kind} show", "format": "of {n}"})
    assert found.select("author_id", "time", "theme", "format", "scene").rows() == [
        (1, 1, "a show", "of 1", ""), (1, 3, "b show", "of 1", ""), (2, 1, "", "of 1", ""),
    ]  # fmt: skip


def test_templates_name_fields_and_columns_that_are_there() -> None:
    metadata = pl.DataFrame({"author_id": [1], "time": [1]})
    with pytest.raises(DataError, match=r"templates: expected fields of .*, got \['mood'\]"):
        templated(metadata, {"mood": "x"})
    with pytest.raises(DataError, match="templates: expected a column kind, got none"):
        templated(metadata, {"theme": "{kind}"})


def log(**columns: object) -> Impressions:
    frame = pl.DataFrame(
        {"request_id": ["a", "a", "b"], "user_id": [1, 1, 2], "item_id": [7, 8, 7],
         "time": [10, 20, 30], "label_click": [True, False, True], **columns}
    )  # fmt: skip
    return Impressions.of(frame, "log")


def test_the_authors_of_a_log_are_described_from_its_columns() -> None:
    videos = log(duration_ms=[0, 17_000, 64_000])
    assert author_column(videos) == "item_id"
    found = templated(metadata_of(videos), SHORT_VIDEO)
    assert found.select("author_id", "time", "format").rows() == [
        (7, 10, "short video of 1 seconds"), (7, 30, "short video of 64 seconds"),
        (8, 20, "short video of 32 seconds"),
    ]  # fmt: skip
    live = log(
        streamer_id=[3, 3, 4], live_content_category=["music", "music", None],
        streamer_fans_user_num=["10-100"] * 3, live_type=[1, 1, 2],
    )  # fmt: skip
    assert author_column(live) == "streamer_id"
    found = templated(metadata_of(live), LIVE)
    assert found.select("author_id", "theme", "audience", "format").rows() == [
        (3, "music", "streamer of 10-100 fans", "live type 1"),
        (4, "", "streamer of 10-100 fans", "live type 2"),
    ]


def test_the_anchor_in_force_is_the_last_begun() -> None:
    table = checked_anchors(anchors([1, 1, 5], [10, 20, 0]), "a")
    author, time = np.array([1, 1, 1, 1, 5, 4, 9, 0]), np.array([9, 10, 19, 99, 0, 50, 50, 50])
    assert in_force(table, author, time).tolist() == [-1, 0, 0, 1, 2, -1, -1, -1]
    assert in_force(table.clear(), author, time).tolist() == [-1] * 8
