"""The simulator does what it says: rates, correlation, known truth, one world for two draws."""

import numpy as np
import pytest

from engine.ranking.auc import gauc
from engine.ranking.config import SimulationConfig
from engine.ranking.rivals import expected_weights, safe_logit
from engine.ranking.simulate import rates, simulate


@pytest.mark.parametrize("skew", [1.0, 50.0])
def test_labels_come_at_their_rates_and_by_their_true_probability(skew: float) -> None:
    config = SimulationConfig(requests=3000, skew=skew)
    scored, truth = simulate(config, 0)
    expected = rates(config)
    assert expected[0] / expected[-1] == pytest.approx(skew)
    np.testing.assert_allclose(truth.mean(0), expected, rtol=1e-6)
    deviation = np.sqrt(truth * (1 - truth)).mean(0) / len(truth) ** 0.5
    assert (abs(scored.labels.mean(0) - expected) < 5 * deviation).all()
    high = truth > np.median(truth, 0)
    for m in range(4):
        assert scored.labels[high[:, m], m].mean() > scored.labels[~high[:, m], m].mean()


def test_objectives_correlate_as_asked() -> None:
    _, truth = simulate(SimulationConfig(requests=3000, correlation=0.6, user_dim=1), 0)
    within = safe_logit(truth).reshape(3000, 20, 4)
    within -= within.mean(1, keepdims=True)
    found = np.corrcoef(within.reshape(-1, 4).T)
    np.testing.assert_allclose(found[np.triu_indices(4, 1)], 0.6, atol=0.02)


def test_train_and_test_share_a_world_and_nothing_else() -> None:
    config = SimulationConfig(requests=50)
    (first, _), (again, _), (other, _) = (simulate(config, seed, 3) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.isin(first.user, other.user).any()
    assert (simulate(config, 0, 4)[0].user != first.user).all()


def test_the_rankers_error_depends_on_the_user() -> None:
    scored, truth = simulate(SimulationConfig(requests=3000, uneven=1.0), 0)
    error = (safe_logit(scored.probability) - safe_logit(truth)).reshape(3000, 20, 4).std(1)
    user = scored.user.reshape(3000, 20, -1)[:, 0]
    design = np.c_[user, np.ones(3000)]
    for m in range(4):
        log_error = np.log(error[:, m])
        fit = design @ np.linalg.lstsq(design, log_error, rcond=None)[0]
        assert np.corrcoef(fit, log_error)[0, 1] > 0.8


@pytest.mark.parametrize("grouped", [False, True])
def test_expected_weights_are_the_best_for_the_truth(grouped: bool) -> None:
    """Σ w_m P(y^m) beats every other weighting of the true probabilities in mean AUC."""
    scored, truth = simulate(SimulationConfig(requests=4000, skew=10), 0)
    request = scored.request if grouped else np.zeros_like(scored.request)
    best = expected_weights(scored.labels, scored.request, grouped=grouped)
    if not grouped:
        rate = scored.labels.mean(0)
        np.testing.assert_allclose(best * rate * (1 - rate) * len(truth) ** 2, 1.0)

    def area(weights: np.ndarray) -> float:
        return float(gauc(truth @ weights, scored.labels, request).mean.mean())

    for m in range(4):
        for factor in (0.25, 4.0):
            other = best.copy()
            other[m] *= factor
            assert area(other) < area(best)
    assert area(np.ones(4)) < area(best)
