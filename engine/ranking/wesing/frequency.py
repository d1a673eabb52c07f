"""How often an item comes into a batch: what in-batch negatives are corrected by."""

import numpy as np
from numpy.typing import NDArray

from .config import Correction


def log_frequency(
    item: NDArray[np.int64], correction: Correction, pace: float
) -> NDArray[np.float64]:
    """log Q [n] of the item of each row.

    `counted` is the item's share of the rows. `streaming` is 1/B, B the running mean of the gap in
    rows between an item's rows, B ← (1 - pace) B + pace gap (Yi et al. 2019, algorithm 2); it
    forgets, and B starts at the share's inverse of an item that comes once. `none` is 0.

    Args:
        item: [n] in 0..I - 1, in order of time.
    """
    n = len(item)
    if correction == "none":
        return np.zeros(n)
    if correction == "counted":
        counted: NDArray[np.float64] = np.log(np.bincount(item)[item] / n)
        return counted
    order = np.argsort(item, kind="stable")
    first = np.r_[True, np.diff(item[order]) != 0]
    gap = np.diff(order, prepend=0).astype(np.float64)
    gap[first] = n
    # B is a chain along each item's rows; all items take their k-th step together.
    start = np.flatnonzero(first)
    length = np.diff(np.r_[start, n])
    running = np.full(len(start), float(n))
    found = np.empty(n)
    for k in range(int(length.max(initial=0))):
        alive = np.flatnonzero(length > k)
        if k:
            running[alive] += pace * (gap[start[alive] + k] - running[alive])
        found[start[alive] + k] = running[alive]
    log_q = np.empty(n)
    log_q[order] = -np.log(found)
    return log_q
