"""The comparison on logged impressions: its split, its ranker, its rows."""

import numpy as np
import polars as pl
import pytest

from engine.ranking.auc import auc
from engine.ranking.config import FusionConfig
from engine.ranking.data.impressions import Impressions
from engine.ranking.data.kuairand import load_kuairand
from engine.ranking.data.past import with_past
from engine.ranking.study_logs import compare, split
from engine.ranking.upstream import train_upstream, user_profile
from tests.ranking.data.test_kuairand import REAL


@pytest.fixture(scope="module")
def log() -> Impressions:
    """Items differ in how they are answered, so that their past tells."""
    rng = np.random.default_rng(0)
    n = 6000
    user, day, item = rng.integers(0, 60, n), rng.integers(0, 12, n), rng.integers(0, 30, n)
    bent = rng.normal(size=(30, 2)) * 1.5
    chance = 1 / (1 + np.exp(-(bent[item] - [0, 3])))
    labels = rng.random((n, 2)) < chance
    return Impressions.of(
        pl.DataFrame(
            {
                "request_id": [f"{u}/{d}" for u, d in zip(user, day, strict=True)],
                "user_id": user, "item_id": item,
                "time": 86400 * (100 + day) + rng.integers(0, 86400, n),
                "label_a": labels[:, 0], "label_b": labels[:, 1], "outcome_x": labels[:, 0] * 1.0,
                "kind": ["k"] * n,
            }
        ),
        "f",
    )  # fmt: skip


def test_the_parts_follow_in_time_and_share_no_request(log: Impressions) -> None:
    parts = split(log)
    assert sum(map(len, parts)) == len(log)
    seen = [set(part.frame["request_id"]) for part in parts]
    assert len(set.union(*seen)) == sum(map(len, seen))
    starts = [part.frame.group_by("request_id").agg(pl.col("time").min())["time"] for part in parts]
    assert starts[0].max() < starts[1].min() <= starts[1].max() < starts[2].min()


def test_the_ranker_reads_numbers_and_knows_what_it_saw(log: Impressions) -> None:
    first, _, third = split(with_past(log))
    upstream = train_upstream(first)
    assert upstream.columns == (
        "past_user_rows", "past_user_a", "past_user_b",
        "past_item_rows", "past_item_a", "past_item_b",
    )  # fmt: skip
    probability = upstream(third)
    assert probability.shape == (len(third), 2)
    for m in range(2):
        assert auc(probability[:, m], third.labels[:, m : m + 1])[0] > 0.65
    np.testing.assert_allclose(probability.mean(0), third.labels.mean(0), atol=0.05)
    assert user_profile(third).shape == (len(third), 3)


@pytest.mark.parametrize("per_request", [False, True])
def test_every_method_is_compared_on_the_same_users(log: Impressions, per_request: bool) -> None:
    row = compare(log, FusionConfig(epochs=1, per_request=per_request), 1, 200)
    assert list(row["baselines"]) == [
        "pairwise", "bce", "equal_weights", "searched_weights", "expected_weights",
    ]  # fmt: skip
    for baseline in row["baselines"].values():
        minus = baseline["harmonrank_minus"]
        assert minus["low"] <= minus["mean"] <= minus["high"]
        assert baseline["ci"][0] <= baseline["mean_auc"] <= baseline["ci"][1]
        assert minus["mean"] == pytest.approx(row["mean_auc"] - baseline["mean_auc"])
    assert sum(row["rows"]) == len(log)
    assert row["objectives"]["a"]["harmonrank"] > 0.65
    means = [m["harmonrank"] for m in row["objectives"].values()]
    assert row["mean_auc"] == pytest.approx(np.mean(means))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no KuaiRand subset in {REAL}")
def test_on_kuairand_the_ranker_orders_and_ranks_beat_cross_entropies() -> None:
    fusion = FusionConfig(per_request=False, batch_requests=256, epochs=3)
    row = compare(load_kuairand(REAL), fusion, 1, 100)
    assert row["objectives"]["click"]["equal_weights"] > 0.65
    assert row["baselines"]["bce"]["harmonrank_minus"]["low"] > 0
