"""When repeats of a noisy number say enough: the gate's noise model.

Each repeat of a case gives one number: a ratio to an opponent of the same repeat, a difference to
it, or a value. The repeats are taken as independent. Their interval is Student's t about the mean
of what remains when a fifth is trimmed at either end (Tukey and McLaughlin 1963), so from five
repeats on a disturbed one moves the interval little; at three, where nothing is trimmed, it widens
it and asks for more repeats. A verdict needs the whole interval on one side of the bound.

Looking after every repeat and stopping at the first clear interval would err more often than one
look. So there are few looks, at LOOKS repeats, and each interval has 1 - ALPHA / len(LOOKS)
(Bonferroni): with 95 % all of them hold at once, wherever one stops. A number that lies exactly on
its bound is passed, and refused, with at most 2.5 % each; farther away less.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t

LOOKS = (3, 5, 8, 12, 20)
ALPHA = 0.05
_TRIMMED = 5  # one of so many at either end: none of three, one of five


class Interval(NamedTuple):
    """Median of the repeats, and where the trimmed mean lies."""

    value: float
    low: float
    high: float


def interval(values: Sequence[float]) -> Interval:
    """Of the values of at least LOOKS[0] repeats.

    Raises:
        ValueError: fewer repeats, or a value that is not finite.
    """
    if len(values) < LOOKS[0] or not np.isfinite(values).all():
        raise ValueError(
            f"interval: values: expected {LOOKS[0]} or more finite numbers, got {values}"
        )
    ordered, n = np.sort(values), len(values)
    cut = n // _TRIMMED
    kept = ordered[cut : n - cut]
    spread = ordered.clip(kept[0], kept[-1]).std(ddof=1)  # of the winsorised values
    error = spread * np.sqrt((n - 1) / (len(kept) * (len(kept) - 1)))
    reach = error * t.ppf(1 - ALPHA / len(LOOKS) / 2, len(kept) - 1)
    centre = kept.mean()
    return Interval(float(np.median(ordered)), float(centre - reach), float(centre + reach))
