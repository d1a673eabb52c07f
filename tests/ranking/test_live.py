"""The simulated platform keeps KuaiLive's ratios, tells its truth, and reads back from files."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from engine.ranking.auc import auc
from engine.ranking.data.impressions import Impressions
from engine.ranking.data.kuailive import load_kuailive, title_embeddings
from engine.ranking.data.live import Live, LiveConfig, simulate_live
from engine.ranking.data.live_files import write_kuailive
from engine.ranking.data.live_text import FIELDS
from engine.ranking.data.live_watch import with_watch

SMALL = LiveConfig(users=60, streamers=200, days=3)


@pytest.fixture(scope="module")
def live() -> Live:
    return simulate_live(LiveConfig(), 0)


@pytest.fixture(scope="module")
def small() -> Live:
    return simulate_live(SMALL, 3)


def test_ratios_are_kuailives(live: Live) -> None:
    """4,909,515 clicks of 23,772 users in 21 days, 11,613,708 rooms of 452,621 streamers; a click
    brings a comment 4.0 %, a like 3.7 %, a gift 1.5 %."""
    config, labels = live.config, live.impressions.labels
    clicks = labels[:, 0].sum()
    assert clicks / config.users / config.days == pytest.approx(4_909_515 / 23_772 / 21, rel=0.03)
    streamer_days = config.streamers * (config.days + 1)
    rooms = len(live.tables.rooms) / streamer_days
    assert rooms == pytest.approx(11_613_708 / 452_621 / 21, rel=0.03)
    for m, rate in ((2, 196_526 / 4_909_515), (3, 179_311 / 4_909_515), (4, 72_646 / 4_909_515)):
        # Sampling alone moves it by 4 % at the rarest.
        assert labels[:, m].sum() / clicks == pytest.approx(rate, rel=0.12)
        assert live.truth[:, m].sum() / live.truth[:, 0].sum() == pytest.approx(rate, rel=0.04)
    assert labels[:, 1].sum() / clicks == pytest.approx(config.watch_rate, rel=0.02)
    assert 120_000 < len(labels) < 180_000


def test_truth_is_calibrated(live: Live) -> None:
    """Labels' means are truth's in all of it and in every tenth of it, within sampling error."""
    labels, truth = live.impressions.labels, live.truth
    assert live.impressions.objectives == ("click", "watch", "comment", "like", "gift")
    for m in range(5):
        order = np.argsort(truth[:, m])
        for rows in (order, *np.array_split(order, 10)):
            p = truth[rows, m]
            error = np.sqrt((p * (1 - p)).sum()) / len(rows)
            assert abs(labels[rows, m].mean() - p.mean()) < 4.5 * error
        assert auc(truth[:, m], labels)[m] > 0.7


def test_nothing_comes_without_a_click(live: Live) -> None:
    frame, labels = live.impressions.frame, live.impressions.labels
    assert not labels[~labels[:, 0]].any()
    assert (live.truth[:, 1:] <= live.truth[:, :1]).all()
    watched = frame["outcome_watch_ms"]
    assert (watched.is_not_null() == frame["label_click"]).all()
    assert ((watched >= 60_000).fill_null(False) == frame["label_watch"]).all()
    assert (frame["outcome_gift_price"].is_not_null() == frame["label_gift"]).all()


def test_rooms_are_shown_on_air_and_once_a_session(live: Live) -> None:
    rooms, shown = live.world.rooms, live.impressions.item
    assert (live.time_ms >= rooms.start_ms[shown]).all()
    watched = live.impressions.frame["outcome_watch_ms"].fill_null(0).to_numpy()
    assert (live.time_ms + watched <= rooms.end_ms[shown]).all()
    assert (np.diff(np.sort(rooms.start_ms)) >= 0).all()
    table = live.tables.rooms.sort("streamer_id", "start_timestamp")
    overlap = pl.col("end_timestamp") > pl.col("start_timestamp").shift(-1).over("streamer_id")
    assert not table.select(overlap.fill_null(False)).to_series().any()
    twice = live.impressions.frame.select("request_id", "item_id").is_duplicated()
    assert not twice.any()


def test_exposure_has_a_long_tail(live: Live) -> None:
    seen = np.sort(np.bincount(live.impressions.frame["streamer_id"], minlength=1500))
    assert seen[-150:].sum() > 0.4 * seen.sum()
    assert seen[: len(seen) // 4].sum() < 0.03 * seen.sum()


def test_objectives_correlate_and_conflict(live: Live) -> None:
    world, frame = live.world, live.impressions
    found = np.corrcoef(world.fit(frame.user, frame.item, live.time_ms).T)
    assert found[0, 3] > 0.2
    assert found[0, 4] < -0.1


def test_a_text_holds_from_its_time_on_and_tells_the_content(live: Live) -> None:
    anchors, world = live.anchors, live.world
    assert anchors.columns == ["author_id", "time", *FIELDS]
    assert anchors["author_id"].n_unique() == 1500
    assert len(anchors) > 2 * 1500
    # The content of each impression is that of the last text at or before it.
    asked = pl.DataFrame({"author_id": live.impressions.frame["streamer_id"], "ms": live.time_ms})
    asked = asked.with_row_index("row").sort("ms")
    since = anchors.with_row_index("text").with_columns(ms=pl.col("time") * 1000).sort("ms")
    found = asked.join_asof(since, on="ms", by="author_id", check_sortedness=False).sort("row")
    content = world.at(live.impressions.item, live.time_ms)
    late = found["text"].to_numpy() != content  # a text holds from the next whole second on
    assert (live.time_ms - world.since_ms[content])[late].max(initial=0) < 1000
    # Two streamers of one theme, audience, format are more alike than two of others.
    some = slice(0, 2000)
    content = world.content[some] / np.linalg.norm(world.content[some], axis=1, keepdims=True)
    alike = content @ content.T
    same = np.ones(alike.shape, bool)
    for part in ("theme", "audience", "format"):
        same &= world.words[part][some, None] == world.words[part][some]
    other = world.author[some, None] != world.author[some]
    assert alike[same & other].mean() > 0.25
    assert abs(alike[~same & other].mean()) < 0.05


def test_the_text_changes_where_the_content_drifts() -> None:
    still = simulate_live(SMALL.model_copy(update={"drift": 0.0}), 0)
    assert len(still.anchors) == 200
    moving = simulate_live(SMALL.model_copy(update={"drift": 1.0}), 0)
    assert len(moving.anchors) == 200 + len(moving.tables.rooms)
    rooms = moving.world.rooms
    before = moving.world.at(np.arange(len(rooms.streamer)), rooms.drift_ms - 1)
    np.testing.assert_array_equal(
        moving.world.at(np.arange(len(before)), rooms.drift_ms), before + 1
    )


def test_the_seed_decides_everything(small: Live) -> None:
    again, other = simulate_live(SMALL, 3), simulate_live(SMALL, 4)
    assert again.impressions.frame.equals(small.impressions.frame)
    assert again.anchors.equals(small.anchors)
    np.testing.assert_array_equal(again.truth, small.truth)
    np.testing.assert_array_equal(again.tables.titles, small.tables.titles)
    assert not other.impressions.frame.equals(small.impressions.frame)


def test_the_files_hold_the_same_impressions(small: Live, tmp_path: Path) -> None:
    write_kuailive(small, tmp_path / "new")
    found, without_click = load_kuailive(tmp_path / "new")
    assert without_click == {"comment": 0, "like": 0, "gift": 0}
    assert "label_watch" not in found.frame.columns
    assert with_watch(found, SMALL.watch_s).frame.equals(small.impressions.frame)
    np.testing.assert_array_equal(title_embeddings(tmp_path / "new"), small.tables.titles)


def test_an_effective_watch_needs_the_time_watched(small: Live) -> None:
    without = Impressions(small.impressions.frame.drop("outcome_watch_ms"))
    with pytest.raises(
        ValueError, match=r"^with_watch: log: expected columns label_click and outcome_watch_ms, go"
    ):
        with_watch(without)
    assert with_watch(small.impressions, 600).labels[:, 1].mean() < 0.05
