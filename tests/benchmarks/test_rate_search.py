"""The search for the highest rate, on a simulated queue whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.rate_search import highest_rate

SERVICE_S = 0.002
OBJECTIVE_S = 0.030


def p99(rate_per_s: float, seed: int, n: int = 20_000) -> float:
    """Of the time in a queue with one server and Poisson arrivals (Lindley's recursion)."""
    gaps = np.random.default_rng(seed).exponential(1 / rate_per_s, n)
    walk = np.cumsum(SERVICE_S - gaps)
    waits = walk - np.minimum(0, np.minimum.accumulate(walk))
    return float(np.percentile(waits + SERVICE_S, 99))


def simulated(asked: list[float]):
    def held(rate_per_s: float) -> float | None:
        asked.append(rate_per_s)
        within = p99(rate_per_s, seed=len(asked)) <= OBJECTIVE_S
        return 0.98 * rate_per_s if within else None

    return held


def truth() -> float:
    """The rate at which the median of many runs' p99 meets the objective, of a dense grid."""
    rates = np.linspace(420, 499, 40)
    medians = [np.median([p99(rate, seed) for seed in range(900, 905)]) for rate in rates.tolist()]
    return float(rates[np.searchsorted(medians, OBJECTIVE_S)])


@pytest.mark.parametrize("start", [20.0, 450.0, 9_000.0])
def test_it_finds_the_rate_of_a_queue_from_anywhere(start: float) -> None:
    asked: list[float] = []
    found = highest_rate(simulated(asked), start, tolerance=0.03)
    assert found == pytest.approx(0.98 * truth(), rel=0.08)
    assert len(asked) < 40


def test_what_was_sent_is_reported_and_the_least_of_the_confirming_runs() -> None:
    sent = iter([99.0, 95.0, 97.0])
    limit = 110.0

    def held(rate_per_s: float) -> float | None:
        return next(sent) if rate_per_s < limit else None

    assert highest_rate(held, 100.0, step=1.2, tolerance=0.5) == 95.0


def test_a_rate_that_held_once_is_lowered_until_it_holds_again() -> None:
    asked: list[float] = []

    def held(rate_per_s: float) -> float | None:
        asked.append(rate_per_s)
        lucky = len(asked) == 1
        return rate_per_s if rate_per_s <= 80 or lucky else None

    found = highest_rate(held, 100.0, tolerance=0.05)
    assert 75 < found <= 80


def test_an_objective_that_holds_nowhere_or_everywhere_ends() -> None:
    with pytest.raises(ValueError, match="expected a rate that holds, got none"):
        highest_rate(lambda rate: None, 100.0)
    with pytest.raises(ValueError, match="expected a rate that breaks, got none"):
        highest_rate(lambda rate: rate, 100.0)
