"""Contenders in one run, interleaved: what one waits for, all have waited for."""

import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class Milliseconds(NamedTuple):
    """Time of one call over `n` rounds."""

    p50: float
    p95: float
    p99: float
    n: int


def interleaved(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3, seed: int = 0
) -> dict[str, Milliseconds]:
    """Times each contender once a round, in an order drawn anew each round.

    Raises:
        ValueError: no rounds.
    """
    if rounds < 1:
        raise ValueError(f"interleaved: rounds: expected at least 1, got {rounds}")
    order, draw = list(contenders), random.Random(seed)
    taken: dict[str, list[float]] = {name: [] for name in order}
    for name in order:
        for _ in range(warmup):
            contenders[name]()
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            begin = time.perf_counter()
            contenders[name]()
            taken[name].append(1e3 * (time.perf_counter() - begin))
    times = {}
    for name, ms in taken.items():
        p50, p95, p99 = np.percentile(ms, (50, 95, 99)).tolist()
        times[name] = Milliseconds(p50, p95, p99, rounds)
    return times
