"""Contenders in one run, interleaved: what one waits for, all have waited for."""

import random
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Milliseconds(NamedTuple):
    """Time of one call over `n` rounds."""

    p50: float
    p95: float
    p99: float
    n: int

    @classmethod
    def of(cls, ms: ArrayLike) -> "Milliseconds":
        """Of the times of `n` calls."""
        taken = np.asarray(ms)
        p50, p95, p99 = np.percentile(taken, (50, 95, 99)).tolist()
        return cls(p50, p95, p99, len(taken))

    def in_ms(self) -> dict[str, float]:
        """The times with their unit in the names: p50_ms, p95_ms, p99_ms."""
        return {"p50_ms": self.p50, "p95_ms": self.p95, "p99_ms": self.p99}


def interleaved(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3, seed: int = 0
) -> dict[str, Milliseconds]:
    """What `in_turns` gives, summed up. Raises ValueError for no rounds."""
    taken = in_turns(contenders, rounds, warmup, seed)
    return {name: Milliseconds.of(ms) for name, ms in taken.items()}


def in_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 3, seed: int = 0
) -> dict[str, list[float]]:
    """Milliseconds of each contender, once a round, in an order drawn anew each round.

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
    return taken
