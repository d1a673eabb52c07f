from typing import Any

import numpy as np
import polars as pl
import pytest

from engine.ranking.data.impressions import Impressions
from engine.ranking.sarm.config import OnlineConfig, SarmConfig, SarmStudyConfig
from engine.ranking.sarm.rungs import BASE, GATE, LADDER
from engine.ranking.sarm.study import prepare, study
from tests.ranking.sarm.tiny import CONFIG, Letters, platform

CONFIGURED = SarmStudyConfig(
    base=CONFIG.model_copy(update={"online": OnlineConfig(batch=100, passes=2)}),
    seeds=2, resamples=40, exposures=(0, 20), since=0, train_share=0.75,
)  # fmt: skip


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return study(*platform(800), CONFIGURED, embedder=Letters())


def test_every_rung_has_figures_and_differences(found: dict[str, Any]) -> None:
    assert [row["rung"] for row in found["ladder"]] == [rung.name for rung in LADDER]
    for row, rung in zip(found["ladder"], LADDER, strict=True):
        for metric in ("auc", "gauc"):
            assert set(row[metric]) == {"click", "gift", "mean"}
            for figure in row[metric].values():
                assert figure["ci"][0] <= figure["ci"][1]
                assert 0 <= figure["value"] <= 1
        compared = {
            name for name in ("base", "frozen", rung.after) if name not in (None, rung.name)
        }
        assert {key for key in row if key.startswith("minus_")} == {f"minus_{n}" for n in compared}
    assert found["rows"] == [600, 200]


def test_a_difference_is_that_of_the_figures(found: dict[str, Any]) -> None:
    rows = {row["rung"]: row for row in found["ladder"]}
    gap = rows["full"]["minus_base"]["auc"]
    for name in ("click", "gift", "mean"):
        expected = rows["full"]["auc"][name]["value"] - rows["base"]["auc"][name]["value"]
        assert gap[name]["mean"] == pytest.approx(expected)
        assert gap[name]["low"] <= gap[name]["high"]
    assert [row["rung"] for row in found["gate"]] == [rung.name for rung in GATE]
    assert "full_minus" in found["gate"][0]
    assert "full_minus" not in found["gate"][2]


def test_buckets_of_exposure_hold_every_row_once(found: dict[str, Any]) -> None:
    assert sum(row["impressions"] for row in found["low_exposure"]) == 200
    assert [(row["above"], row["up_to"]) for row in found["low_exposure"]] == [
        (None, 0), (0, 20), (20, None),
    ]  # fmt: skip
    assert all({"low", "high", "mean"} == set(found["low_exposure"][2][k]) for k in ("minus_base",))


def test_rungs_differ_by_what_they_say() -> None:
    settings = [rung.of(SarmConfig()) for rung in LADDER]
    assert len({config.model_dump_json() for config in settings}) == len(LADDER)
    full = settings[-1]
    assert (full.ranker.identity, full.ranker.sequence) == (True, True)
    assert full.ranker.auxiliary > 0
    assert (full.encoder.gate, full.online) == ("gate", SarmConfig().online)
    base = BASE.of(SarmConfig()).ranker
    assert (base.content, base.auxiliary, base.sequence, base.identity) == ("none", 0, False, False)


def test_the_asked_part_is_no_part_of_what_is_fitted() -> None:
    """Vocabularies of the last part change nothing that the first part defines."""
    log, anchors = platform(800)
    other = log.frame.with_columns(
        age=pl.when(pl.col("time") > log.time[650]).then(1e6).otherwise("age")
    )
    one, two = (prepare(part, anchors, CONFIGURED, Letters()) for part in (log, Impressions(other)))
    assert one.features == two.features
    assert one.first == two.first == 600
    assert one.exposures.sum() > 0
    np.testing.assert_array_equal(one.stream.history, two.stream.history)


def test_a_share_of_the_log_is_that_of_its_rows() -> None:
    log, anchors = platform(800)
    late = prepare(log, anchors, CONFIGURED.model_copy(update={"since": 0.25}), Letters())
    assert len(late.stream) == pytest.approx(600, abs=5)
    assert late.stream.time.min() >= np.quantile(log.time, 0.25)
    part = prepare(log, anchors, CONFIGURED.model_copy(update={"until": 0.5}), Letters())
    assert len(part.stream) == pytest.approx(400, abs=5)
    assert part.stream.time.max() <= np.quantile(log.time, 0.5) + 86_400 * 4 // 800 * 5
