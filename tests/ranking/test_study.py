"""A study small enough for a test: its rows, and what holds on it by a wide margin."""

import json
import subprocess
import sys

import numpy as np
import pytest

from engine.ranking.config import FusionConfig, SimulationConfig, StudyConfig
from engine.ranking.fusion import fused, train
from engine.ranking.rivals import searched_weights
from engine.ranking.scored import Scored
from engine.ranking.simulate import simulate
from engine.ranking.study import interval, methods

SMALL = SimulationConfig(requests=400, skew=30)


@pytest.fixture(scope="module")
def areas() -> dict[str, np.ndarray]:
    return methods(
        simulate(SMALL, 0)[0], *simulate(SMALL, 1), FusionConfig(epochs=10, batch_requests=32)
    )


def test_ranks_beat_the_sum_of_cross_entropies_where_labels_are_skewed(
    areas: dict[str, np.ndarray],
) -> None:
    assert areas["harmonrank"].mean() > areas["bce"].mean() + 0.01
    assert areas["pairwise"].mean() > areas["bce"].mean() + 0.01
    # What it gives up for that is the most frequent objective.
    assert areas["bce"][0] > areas["harmonrank"][0]
    assert areas["harmonrank"][3] > areas["bce"][3] + 0.02


def test_nothing_beats_the_truth(areas: dict[str, np.ndarray]) -> None:
    best = areas.pop("oracle").mean()
    assert best > max(values.mean() for values in areas.values())


def test_training_is_repeatable_and_takes_rows_in_any_order() -> None:
    scored = simulate(SimulationConfig(requests=60), 0)[0]
    config = FusionConfig(epochs=1, batch_requests=16)
    network, blocks = train(scored, config)
    assert 1 / 1200 < blocks < 1
    again = train(scored, config)[0]
    np.testing.assert_array_equal(fused(network, scored), fused(again, scored))
    rows = np.random.default_rng(0).permutation(len(scored.request))
    mixed = Scored(
        scored.probability[rows], scored.user[rows], scored.labels[rows], scored.request[rows]
    )
    difference = fused(train(mixed, config)[0], scored) - fused(network, scored)
    # A constant has no gradient, and Adam makes steps of its rounding.
    np.testing.assert_allclose(difference, difference.mean(), atol=1e-4)


def test_the_searched_weights_find_the_objective_that_knows() -> None:
    scored = simulate(SimulationConfig(requests=200, objectives=2, error=0.0), 0)[0]
    noise = np.random.default_rng(0).random((len(scored.request), 1))
    known = Scored(
        np.c_[scored.probability[:, :1], noise], scored.user, scored.labels, scored.request
    )
    weights = searched_weights(known, grouped=True)
    assert weights[0] > 0.6
    assert weights.sum() == pytest.approx(1)


def test_the_interval_is_students() -> None:
    low, high = interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert (low + high) / 2 == pytest.approx(2.5)
    assert high - low == pytest.approx(2 * 3.182446 * np.std([1, 2, 3, 4], ddof=1) / 2)


def test_the_study_prints_its_rows() -> None:
    config = StudyConfig(
        simulation=SimulationConfig(requests=40, candidates=8, objectives=2),
        fusion=FusionConfig(epochs=1),
        skews=(4.0, 1.0),
        cs=(0.001, 1000.0),
        taus=(1.0,),
        seeds=2,
    )
    result = subprocess.run(
        [sys.executable, "-m", "engine.ranking.study", config.model_dump_json()],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    row = json.loads(result.stdout)
    assert list(row) == [
        "mean_auc", "ci", "objectives", "baselines", "epsilon", "temperature", "skew", "config",
    ]  # fmt: skip
    assert StudyConfig.model_validate(row["config"]) == config
    assert list(row["baselines"]) == [
        "pairwise", "bce", "equal_weights", "searched_weights", "expected_weights", "oracle",
    ]  # fmt: skip
    for baseline in row["baselines"].values():
        minus = baseline["harmonrank_minus"]
        assert minus["mean"] == pytest.approx(row["mean_auc"] - baseline["mean_auc"])
        assert minus["low"] <= minus["mean"] <= minus["high"]
    assert [one["skew"] for one in row["skew"]] == [4.0, 1.0]
    assert row["skew"][0]["rates"] == pytest.approx([0.4, 0.1])
    assert row["skew"][0]["mean_auc"] == row["mean_auc"]
    # The same settings, seeds and data by another way.
    assert (
        row["temperature"][0].items()
        >= {k: v for k, v in row["baselines"]["pairwise"].items() if k != "objectives"}.items()
    )
    hard, soft = row["epsilon"]
    assert hard["blocks"] > 0.99
    assert soft["blocks"] == pytest.approx(1 / 8)
