"""The comparison of rankers: its rows, its differences, what it may read when."""

from typing import Any

import numpy as np
import polars as pl
import pytest

import engine.ranking.wesing.study as module
from engine.ranking.auc import auc
from engine.ranking.data.impressions import Impressions
from engine.ranking.features import FeatureConfig
from engine.ranking.wesing.config import ExpertsConfig, RankerConfig, StudyConfig, TrainConfig
from engine.ranking.wesing.study import study

TRAIN = TrainConfig(
    features=FeatureConfig(min_count=2),
    ranker=RankerConfig(experts=ExpertsConfig(hidden=8, width=8)),
    epochs=1, batch=256, lr=2e-2,
)  # fmt: skip


def log(n: int = 3000) -> Impressions:
    """Clicks by the item, watches of some of those, likes by chance alone."""
    rng = np.random.default_rng(0)
    user, day, item = rng.integers(0, 40, n), rng.integers(0, 12, n), rng.integers(0, 30, n)
    bent = 2 * rng.normal(size=(30, 2))
    chance = 1 / (1 + np.exp(-bent[item]))
    click = rng.random(n) < chance[:, 0]
    return Impressions.of(
        pl.DataFrame(
            {
                "request_id": [f"{u}/{d}" for u, d in zip(user, day, strict=True)],
                "user_id": user, "item_id": item,
                "time": 86400 * (100 + day) + rng.integers(0, 86400, n),
                "label_click": click, "label_watch": click & (rng.random(n) < chance[:, 1]),
                "label_like": rng.random(n) < 0.3,
            }
        ),
        "f",
    )  # fmt: skip


@pytest.fixture(scope="module")
def found() -> tuple[dict[str, Any], list[tuple[Impressions, TrainConfig, Impressions]]]:
    """The study of a log, and what each ranker was trained on and asked."""
    calls = []
    train = module.train_ranker

    def noted(seen: Impressions, config: TrainConfig) -> Any:
        trained = train(seen, config)

        def asks(asked: Impressions) -> Any:
            calls.append((seen, config, asked))
            return trained(asked)

        return asks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "train_ranker", noted)
        config = StudyConfig(train=TRAIN, rates=(1e-6, 2e-2), seeds=2, resamples=50)
        return study(log(), config), calls


def test_every_list_has_its_rankers_and_their_differences(found: Any) -> None:
    row, _ = found
    names = {
        "kfm": ["fm", "kfm_equal", "kfm"],
        "experts": ["shared_bottom", "mmoe", "cgc"],
        "gradients": ["gradnorm", "pcgrad", "sum"],
    }
    for kind, methods in names.items():
        assert [one["method"] for one in row[kind]] == methods
        for one in row[kind]:
            assert set(one["minus"]) == set(methods) - {one["method"]}
            for other, minus in one["minus"].items():
                theirs = next(r for r in row[kind] if r["method"] == other)
                for measure in ("auc", "gauc"):
                    assert set(one[measure]) == {"mean", "click", "watch", "like"}
                    for name, value in minus[measure].items():
                        assert value["low"] <= value["high"]
                        gap = one[measure][name]["value"] - theirs[measure][name]["value"]
                        assert value["value"] == pytest.approx(gap, abs=1e-12)
    common = [row[kind][2] for kind in names]
    assert common[0]["auc"] == common[1]["auc"] == common[2]["auc"]
    assert row["kfm"][2]["auc"]["click"]["value"] > 0.7
    like = row["kfm"][2]["auc"]["like"]
    assert like["low"] < 0.5 + 0.05
    assert like["high"] > 0.5 - 0.05


def test_experts_have_one_budget(found: Any) -> None:
    row, _ = found
    sizes = {one["method"]: one["parameters"] for one in row["experts"]}
    assert max(sizes.values()) == sizes["cgc"]
    assert min(sizes.values()) > 0.9 * sizes["cgc"]


def begins(part: Impressions) -> pl.Series:
    """When each request begins."""
    return part.frame.group_by("request_id").agg(pl.col("time").min())["time"]


def test_the_rate_is_chosen_before_the_last_part_is_seen(found: Any) -> None:
    row, calls = found
    quarter, half, last = np.quantile(log().time, [0.25, 0.5, 0.75])
    tuning = [(config, seen, asked) for seen, config, asked in calls if begins(asked).min() < last]
    assert len(tuning) == 7 * 2
    for _, seen, asked in tuning:
        assert begins(seen).max() < half <= begins(asked).min()
        assert begins(asked).max() < last
    asking = [(config, seen, asked) for seen, config, asked in calls if begins(asked).min() >= last]
    assert len(asking) == 7 * 2
    assert all(config.lr == 2e-2 for config, _, _ in asking)  # nothing is learned at 1e-6
    assert {len(seen) for _, seen, _ in asking} == {row["rows"][2]}
    assert all(quarter <= begins(s).min() <= begins(s).max() < last for _, s, _ in asking)
    assert all(one["rate"] == 2e-2 for kind in ("kfm", "experts") for one in row[kind])


def test_conversions_are_of_the_click_where_they_never_happen_without(found: Any) -> None:
    _, calls = found
    assert all(config.ranker.parents == {"watch": "click"} for _, config, _ in calls)
    with pytest.raises(ValueError, match=r"click: expected one of .* got buy"):
        study(log(300), StudyConfig(train=TRAIN, click="buy"))


def test_intervals_hold_the_seeds_too() -> None:
    """Seeds that differ widen an interval that users alone would leave at a point."""
    point = np.zeros((2, 4, 1)) + np.arange(4)[:, None]
    draws = np.broadcast_to(point[:, None], (2, 200, 4, 1))
    config = StudyConfig(seeds=4, resamples=200)
    measured = module._measured(point, draws, ("a",), config)["auc"]["mean"]
    assert measured["value"] == 1.5
    assert measured["low"] < 0.8
    assert measured["high"] > 2.2
    same = module._measured(point * 0 + 1, draws * 0 + 1, ("a",), config)["gauc"]["a"]
    assert same == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_each_objective_is_asked_by_its_own_probability() -> None:
    asked = log(500)
    p = np.random.default_rng(1).random((500, 3))
    areas = module._areas(p, asked)
    assert areas.shape == (2, 3)
    assert areas[0, 1] == auc(p[:, 1], asked.labels)[1]
