"""A case: the engine's way and what a user would pick instead, on the same inputs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from engine.compile.timing import interleaved

ENGINE = "stars"  # the name of the engine's way in every case
Parameters = Mapping[str, int | float | str]
Statistics = dict[str, dict[str, float]]  # way -> statistic, unit in its name -> value


@dataclass(frozen=True)
class Timed:
    """Ways to answer the same question, called one at a time, in turns.

    Attributes:
        name: of the case, as `gates.toml` has it.
        parameters: shapes, dtypes, threads: what one needs to read a stored row.
        ways: by name, ENGINE's and its opponents'. A call answers once.
        check: of a way's name; raises AssertionError where its answers are wrong.
        rounds: calls of each way in one repeat.
        nbytes, flops: that one answer moves and computes at least.
    """

    name: str
    parameters: Parameters
    ways: Mapping[str, Callable[[], object]]
    check: Callable[[str], None]
    rounds: int
    nbytes: int
    flops: int

    def repeat(self) -> Statistics:
        """p50_ms, p95_ms, p99_ms of every way, over `rounds` in an order drawn anew each."""
        found = interleaved(self.ways, self.rounds, warmup=1)
        return {way: times.in_ms() for way, times in found.items()}


@dataclass(frozen=True)
class Read:
    """Numbers that are not the time of a call: a load test's, counted bytes, a recall.

    Attributes:
        name, parameters: as of `Timed`.
        repeat: statistics of every way, measured anew by each call.
        exact: every repeat gives the same numbers, so one is enough.
    """

    name: str
    parameters: Parameters
    repeat: Callable[[], Statistics]
    exact: bool = False


Case = Timed | Read


def in_turn(ask: Callable[[int], object], n: int) -> Callable[[], object]:
    """Asks 0 … n - 1, one a call, round and round."""
    turns = cycle(range(n))
    return lambda: ask(next(turns))


def exponent(sizes: Sequence[int], times: Sequence[float]) -> float:
    """e of the power law time ~ size^e that fits best, by least squares of the logarithms."""
    slope, _ = np.polyfit(np.log(sizes), np.log(times), 1)
    return float(slope)


@dataclass(frozen=True)
class Setting:
    """What cases are opened with.

    Attributes:
        bundle: folder of the served bundle: `small` over the whole Complete Journey catalogue.
        threads: CPU threads of the engine and of each opponent.
    """

    bundle: Path
    threads: int = 1


# Opens a case; what it holds (servers, files) is gone after the `with` block. Raises
# BackendUnavailable, saying what is missing, where this machine cannot run it.
Opener = Callable[[Setting], AbstractContextManager[Case]]
