"""KuaiLive's published form, read into impressions, against a join written out row by row."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.errors import DataError
from engine.ranking.data.kuailive import load_kuailive, title_embeddings
from tests.ranking.data.live_files import write_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path)
    return tmp_path


def rewrite(folder: Path, name: str, change: pl.Expr) -> None:
    pl.read_csv(folder / f"{name}.csv").with_columns(change).write_csv(folder / f"{name}.csv")


def test_what_was_shown_is_clicks_and_negatives(folder: Path) -> None:
    found, without_click = load_kuailive(folder)
    assert found.objectives == ("click", "comment", "like", "gift")
    assert len(found) == 800
    assert found.labels.sum(0).tolist()[0] == 400
    assert not found.labels[~found.labels[:, 0]].any()
    assert without_click == {"comment": 0, "like": 0, "gift": 0}
    assert found.frame["outcome_gift_price"].sum() == (
        pl.read_csv(folder / "gift.csv")["gift_price"].sum()
    )
    watched = found.frame["outcome_watch_ms"]
    assert (watched.is_not_null() == found.frame["label_click"]).all()


def test_an_answer_belongs_to_the_last_click_before_it(folder: Path) -> None:
    click = pl.read_csv(folder / "click.csv")
    expected = set()
    for user, live, _, time in pl.read_csv(folder / "comment.csv").iter_rows():
        before = click.filter(
            pl.col("user_id") == user, pl.col("live_id") == live, pl.col("timestamp") <= time
        )
        expected.add((str(user), live, before["timestamp"].max() // 1000))
    frame = load_kuailive(folder).impressions.frame.filter("label_comment")
    assert set(frame.select("user_id", "item_id", "time").iter_rows()) == expected


def test_an_answer_without_a_click_is_counted_and_dropped(folder: Path) -> None:
    before = load_kuailive(folder).impressions.labels.sum(0)
    rewrite(folder, "like", pl.col("timestamp") - 10**9)
    found, without_click = load_kuailive(folder)
    assert without_click == {"comment": 0, "like": 50, "gift": 0}
    assert found.labels.sum(0).tolist() == [before[0], before[1], 0, before[3]]


def test_a_request_is_a_users_stretch_without_a_pause(folder: Path) -> None:
    found = load_kuailive(folder, gap_s=900).impressions
    frame = found.frame.sort("user_id", "time")
    for (user,), rows in frame.group_by("user_id"):
        times, requests = rows["time"].to_numpy(), rows["request_id"].to_list()
        assert all(r.startswith(f"{user}/") for r in requests)
        same = np.array(requests[1:]) == np.array(requests[:-1])
        gap = np.diff(times)
        assert (gap[same] <= 900).all()
        assert (gap[~same] >= 899).all()
        assert len(set(requests)) == (~same).sum() + 1 > 1


def test_features_are_what_was_known(folder: Path) -> None:
    found = load_kuailive(folder).impressions
    assert found.features == (
        "streamer_id", "live_type", "live_content_category", "live_name_id",
        "user_age", "user_gender", "user_reg_timestamp", "user_onehot_feat0",
        "streamer_age", "streamer_gender", "streamer_reg_timestamp", "streamer_onehot_feat0",
        "room_age_s",
    )  # fmt: skip
    rooms = pl.read_csv(folder / "room.csv")
    row = found.frame.row(5, named=True)
    room = rooms.row(row["item_id"], named=True)
    assert row["live_type"] == room["live_type"]
    assert row["room_age_s"] == pytest.approx(row["time"] - room["start_timestamp"] / 1000, abs=1)


def test_titles_have_a_row_for_each_name(folder: Path) -> None:
    assert title_embeddings(folder).shape == (30, 128)
    np.save(folder / "title_embeddings_pca128.npy", np.zeros((3, 5)))
    with pytest.raises(DataError, match=r"expected shape \[names, 128\], got \[3, 5\]$"):
        title_embeddings(folder)
    (folder / "title_embeddings_pca128.npy").unlink()
    with pytest.raises(DataError, match=r"expected an array of title embeddings, got none$"):
        title_embeddings(folder)


def test_files_that_are_not_as_published_are_refused(folder: Path) -> None:
    rewrite(folder, "negative", pl.lit(99).alias("live_id"))
    with pytest.raises(DataError, match=r"room.csv column live_id: expected every room .* of 99$"):
        load_kuailive(folder)
    write_files(folder)
    rewrite(folder, "user", pl.lit(1).alias("user_id"))
    with pytest.raises(DataError, match=r"user.csv row 1 column user_id: expected each value once"):
        load_kuailive(folder)
    rewrite(folder, "gift", pl.col("gift_price").cast(pl.String) + "x")
    with pytest.raises(DataError, match=r"gift.csv column gift_price: expected an integer, got St"):
        load_kuailive(folder)
    (folder / "like.csv").unlink()
    with pytest.raises(DataError, match=r"like.csv: expected a table with a header, got none$"):
        load_kuailive(folder)
