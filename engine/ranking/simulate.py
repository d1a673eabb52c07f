"""Impressions with several labels whose true probabilities are known."""

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from .auc import F64
from .config import SimulationConfig
from .scored import Scored


def rates(config: SimulationConfig) -> F64:
    """Share of positives of each objective, [M], from `top_rate` down in equal ratios."""
    return config.top_rate * config.skew ** -np.linspace(0, 1, config.objectives)


def simulate(config: SimulationConfig, seed: int, world: int = 0) -> tuple[Scored, F64]:
    """Impressions, and the true probability [n, M] of each label.

    True logits share one component over objectives (their correlation); some users answer more
    than others; the ranker's error in each objective is lognormal over users, by their profile.

    Args:
        seed: draws the requests.
        world: draws what is common to train and test: what a profile means.
    """
    common, rng = np.random.default_rng([world, 0]), np.random.default_rng([world, 1, seed])
    m, shape = config.objectives, (config.requests, config.candidates, config.objectives)
    answers = 0.5 * common.normal(size=(config.user_dim, m)) / config.user_dim**0.5
    errs = config.uneven * common.normal(size=(config.user_dim, m)) / config.user_dim**0.5

    user = rng.normal(size=(config.requests, config.user_dim))
    shared = rng.normal(size=(*shape[:2], 1))
    own = rng.normal(size=shape)
    liking = config.correlation**0.5 * shared + (1 - config.correlation) ** 0.5 * own
    logit = config.spread * liking + (user @ answers)[:, None]
    logit += _intercepts(logit, rates(config))
    error = config.error * np.exp(user @ errs)[:, None]  # [Q, 1, M]
    probability = expit(logit + error * rng.normal(size=shape))
    truth = expit(logit).reshape(-1, m)
    scored = Scored(
        probability=probability.reshape(-1, m),
        user=np.repeat(user, config.candidates, 0),
        labels=rng.random(truth.shape) < truth,
        request=np.repeat(np.arange(config.requests), config.candidates),
    )
    return scored, truth


def _intercepts(logit: F64, rate: F64) -> F64:
    """[M] constants with which the mean probability of each objective is its rate."""
    return np.array(
        [
            brentq(lambda b, m=m: expit(logit[..., m] + b).mean() - rate[m], -30, 30)
            for m in range(len(rate))
        ]
    )
