"""The noise model by simulation: how often it errs, and what a disturbed repeat does to it."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.gate_noise import ALPHA, LOOKS, interval

Draw = Callable[[np.random.Generator], float]
RUNS = 300


def verdicts(draw: Draw, bound: float) -> Counter[str]:
    """Of runs that stop at the first look whose interval is clear of the bound."""
    rng, found = np.random.default_rng(0), Counter[str]()
    for _ in range(RUNS):
        values: list[float] = []
        for look in LOOKS:
            values += [draw(rng) for _ in range(look - len(values))]
            _, low, high = interval(values)
            if high <= bound or low > bound:
                found["pass" if high <= bound else "breach"] += 1
                break
        else:
            found["undecided"] += 1
    return found


def noisy(spread: float, disturbed: float = 0.0) -> Draw:
    """A ratio of median 1, log-normal; this share of the repeats takes five times as long."""
    return lambda rng: float(
        np.exp(spread * rng.standard_normal()) * (5.0 if rng.random() < disturbed else 1.0)
    )


@pytest.mark.parametrize("spread", [0.02, 0.2])
def test_on_its_bound_a_number_is_decided_wrongly_five_times_in_a_hundred_at_most(
    spread: float,
) -> None:
    found = verdicts(noisy(spread), bound=1.0)
    # Of a share of 0.025 a side, three standard errors of the simulation above it.
    allowed = ALPHA / 2 + 3 * np.sqrt(ALPHA / 2 / RUNS)
    assert found["pass"] <= allowed * RUNS
    assert found["breach"] <= allowed * RUNS


@pytest.mark.parametrize(("bound", "word"), [(1.5, "pass"), (2.0, "pass"), (0.6, "breach")])
def test_away_from_its_bound_a_number_is_decided(bound: float, word: str) -> None:
    assert verdicts(noisy(0.15), bound)[word] >= 0.99 * RUNS


@pytest.mark.parametrize(("bound", "other"), [(1.6, "breach"), (0.6, "pass")])
def test_disturbed_repeats_leave_it_undecided_at_worst(bound: float, other: str) -> None:
    found = verdicts(noisy(0.1, disturbed=0.05), bound)
    assert found[other] <= 0.01 * RUNS
    assert found["undecided"] <= 0.06 * RUNS


@pytest.mark.parametrize(("n", "disturbed"), [(12, 1), (20, 3)])
def test_disturbed_repeats_do_not_move_the_interval(n: int, disturbed: int) -> None:
    values = (1 + 0.01 * np.arange(n)).tolist()
    assert interval([*values[:-disturbed], *[99.0] * disturbed]) == interval(values)
    assert interval([*values[: -disturbed - 1], *[99.0] * (disturbed + 1)]).high == 99.0


def test_a_disturbed_repeat_of_three_widens_the_interval() -> None:
    _, low, high = interval([1.0, 1.01, 9.0])
    assert low < 0 < 9.0 < high


def test_of_eight_repeats_on_one_side_the_noise_may_be_any() -> None:
    assert interval([1.3, 1.4, 9.0, 1.3, 30.0, 1.5, 7.0, 1.4])[1:] == (1.3, 30.0)


def test_alike_repeats_have_a_point_for_an_interval() -> None:
    assert interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2.0, float("nan")]])
def test_too_few_or_no_numbers_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="expected 3 or more finite numbers"):
        interval(values)
