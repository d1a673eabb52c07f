"""When repeats of a noisy number say enough: the gate's noise model.

Each repeat of a case gives one number: a ratio to an opponent of the same repeat, a difference to
it, or a value. The repeats are taken as independent. From eight repeats on, their median lies
between two of them by the binomial distribution alone (the sign test), whatever the noise: of
twelve, one disturbed repeat at either end does not count, of twenty three. Fewer repeats say
nothing without an assumption, so there the interval is Student's t about the mean: a disturbed
repeat widens it, and it asks for more. A verdict needs the whole interval on one side of the bound.

Looking after every repeat and stopping at the first clear interval would err more often than one
look. So there are few looks, at LOOKS repeats, and each interval has 1 - ALPHA / len(LOOKS)
(Bonferroni): with 95 % all of them hold at once, wherever one stops. A number that lies exactly on
its bound is passed, and refused, with at most 2.5 % each; farther away less.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import quantile_test, t

LOOKS = (3, 5, 8, 12, 20)
ALPHA = 0.05
_CONFIDENCE = 1 - ALPHA / len(LOOKS)  # of one look


class Interval(NamedTuple):
    """Median of the repeats, and where that of the number lies."""

    value: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Of the values of at least LOOKS[0] repeats.

    Raises:
        ValueError: fewer repeats, or a value that is not finite.
    """
    n = len(values)
    if n < LOOKS[0] or not np.isfinite(values).all():
        raise ValueError(
            f"interval: values: expected {LOOKS[0]} or more finite numbers, got {values}"
        )
    low, high = quantile_test(values, p=0.5).confidence_interval(_CONFIDENCE)
    if np.isnan(low) or np.isnan(high):  # no two of so few are far enough apart
        reach = t.ppf((1 + _CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
        low, high = np.mean(values) - reach, np.mean(values) + reach
    return Interval(float(np.median(values)), float(low), float(high))
