"""The comparison on the live platform, and its pages, small enough for a test."""

import numpy as np
import polars as pl
import pytest

from engine.ranking.auc import auc
from engine.ranking.config import CurveConfig, FusionConfig, LiveConfig, LiveStudyConfig
from engine.ranking.curve import live_curve
from engine.ranking.data.live import Live, simulate_live
from engine.ranking.data.live_text import FIELDS
from engine.ranking.study_live import at_skew, described, drawn, study_live
from engine.ranking.study_logs import split

SMALL = LiveConfig(users=80, streamers=400, days=4)
FUSION = FusionConfig(per_request=False, epochs=1)


@pytest.fixture(scope="module")
def live() -> Live:
    return simulate_live(SMALL, 1)


def test_a_skew_is_that_of_clicks_over_gifts() -> None:
    config = LiveConfig()
    assert at_skew(config, 1 / config.gift_rate) == pytest.approx(config)
    even = at_skew(config, 5.0)
    assert even.gift_rate == pytest.approx(0.2)
    assert config.comment_rate < even.gift_rate < even.like_rate < even.comment_rate < 1


def test_rows_have_the_text_and_the_past_of_their_streamer(live: Live) -> None:
    log = described(live, live.impressions)
    frame = log.frame
    assert set(FIELDS) < set(log.features)
    assert not frame.select(FIELDS).null_count().sum_horizontal()[0]
    np.testing.assert_array_equal(frame["item_id"], live.impressions.frame["streamer_id"])
    np.testing.assert_array_equal(frame["outcome_row"], np.arange(len(frame)))
    row = frame.row(len(frame) - 1, named=True)
    anchors = live.anchors.filter(
        (pl.col("author_id") == row["streamer_id"]) & (pl.col("time") <= row["time"])
    ).sort("time")
    assert row["topic"] == anchors["topic"][-1]
    day = row["time"] // 86_400
    before = frame.filter(
        (pl.col("streamer_id") == row["streamer_id"]) & (pl.col("time") // 86_400 < day - 1)
    )
    assert np.expm1(row["past_item_rows"]) >= len(before)


def test_the_truth_of_what_is_asked_is_its_own(live: Live) -> None:
    """Requests are split whole, so that the last part is no plain tail of the log."""
    _, asked, truth = drawn(live)
    last = split(described(live, live.impressions))[2]
    begun = last.frame.select(pl.col("time").min().over("request_id")).to_series()
    row = np.flatnonzero(
        live.impressions.frame.select(pl.col("time").min().over("request_id")).to_series()
        >= begun.min()
    )
    assert row[0] < len(live.truth) - len(row)
    np.testing.assert_array_equal(live.truth[row], truth)
    np.testing.assert_array_equal(live.impressions.labels[row], asked.labels)
    for m in range(5):
        p = truth[:, m]
        error = np.sqrt((p * (1 - p)).sum()) / len(p)
        assert abs(asked.labels[:, m].mean() - p.mean()) < 4.5 * error
        assert auc(truth[:, m], asked.labels)[m] > 0.65
    assert asked.probability.shape == truth.shape
    assert asked.user.shape == (len(truth), 6)


def test_the_study_has_the_rows_of_the_other() -> None:
    config = LiveStudyConfig(
        live=SMALL, fusion=FUSION, skews=(200 / 3, 5.0), cs=(2.5, 20.0), taus=(0.3,), seeds=2
    )
    found = study_live(config)
    assert list(found) == [
        "mean_auc", "ci", "objectives", "baselines", "epsilon", "temperature", "skew", "config",
    ]  # fmt: skip
    assert len(found["objectives"]) == 5
    assert found["baselines"]["oracle"]["mean_auc"] > found["mean_auc"] + 0.05
    rare, even = (row["rates"] for row in found["skew"])
    assert rare[0] / rare[4] == pytest.approx(200 / 3, rel=0.3)
    assert even[0] / even[4] == pytest.approx(5, rel=0.3)
    assert found["epsilon"][0]["harmonrank_minus"]["mean"] == pytest.approx(0, abs=1e-12)
    assert LiveStudyConfig.model_validate(found["config"]) == config


def test_pages_of_rooms_on_air_differ_more_and_fit_less_as_asked() -> None:
    config = CurveConfig(
        live=SMALL, fusion=FUSION, requests=30, candidates=10, size=4, diversities=(0.0, 0.5, 1.0)
    )
    rows = live_curve(config)
    assert [row["theta"] for row in rows] == [1.0, 0.5, 0.0]
    for name in ("relevance", "kept", "similarity"):
        values = [row[name] for row in rows]
        assert values == sorted(values, reverse=True)
        assert rows[1][f"{name}_ci"][0] <= rows[1][name] <= rows[1][f"{name}_ci"][1]
    assert rows[0]["kept_ci"] == [1.0, 1.0]
    assert rows[0]["relevance"] > rows[2]["relevance"] + 0.3
    assert 0 < rows[0]["worth"] < 4
