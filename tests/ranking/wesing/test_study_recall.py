"""Recall of the towers with and without the correction: its rows and its intervals."""

import numpy as np
import polars as pl
import pytest

from engine.ranking.data.impressions import Impressions
from engine.ranking.features import FeatureConfig
from engine.ranking.wesing.config import DssmConfig, RecallStudyConfig
from engine.ranking.wesing.study_recall import _measured, study_recall

CONFIG = RecallStudyConfig(
    dssm=DssmConfig(features=FeatureConfig(), width=8, hidden=16, batch=128, epochs=3),
    k=3, seeds=2, resamples=50,
)  # fmt: skip


def log(n: int = 4000) -> Impressions:
    """Users of two kinds click on items of theirs; low items are shown more often."""
    rng = np.random.default_rng(0)
    user = rng.integers(0, 40, n)
    chance = np.arange(1, 21.0) ** -1.5
    item = 2 * rng.choice(20, n, p=chance / chance.sum()) + rng.integers(0, 2, n)
    return Impressions.of(
        pl.DataFrame(
            {
                "request_id": np.arange(n), "user_id": user, "item_id": item,
                "time": 86400 * 100 + 600 * np.arange(n), "label_click": item % 2 == user % 2,
            }
        ),
        "f",
    )  # fmt: skip


def test_corrections_are_compared_on_the_same_requests() -> None:
    found = study_recall(log(), CONFIG)
    rows = {row["correction"]: row for row in found["recall"]}
    assert list(rows) == ["none", "counted", "streaming"]
    assert found["items"] <= 40
    assert 0 < found["requests"] < 1000
    for name, row in rows.items():
        assert row["low"] <= row["value"] <= row["high"]
        if name != "none":
            minus = row["minus_none"]
            assert minus["value"] == pytest.approx(row["value"] - rows["none"]["value"])
            assert minus["low"] > 0
    assert rows["counted"]["value"] > 0.5


def test_an_interval_is_over_users_and_seeds() -> None:
    user = np.repeat(np.arange(50), 4)
    rng = np.random.default_rng(0)
    config = CONFIG.model_copy(update={"resamples": 2000})
    of_users = np.tile(rng.random(50)[user], (2, 1))
    of_users[:, 0] = np.nan  # a request that wants nothing
    wide = _measured(of_users, user, config)
    half = 1.96 * of_users[0, 3::4].std() / 50**0.5
    assert wide["high"] - wide["low"] == pytest.approx(2 * half, rel=0.1)
    of_seeds = _measured(np.array([[0.0] * 200, [1.0] * 200]), user, config)
    assert (of_seeds["low"], of_seeds["value"], of_seeds["high"]) == (0, 0.5, 1)
