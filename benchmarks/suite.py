"""One measurement of a case for pytest-benchmark: its opponents take their turns between."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.compile.timing import Milliseconds

from .case import ENGINE, Case, Parameters, Timed
from .stored import Row, replace_rows, surroundings

RESULTS = Path(__file__).resolve().parent / "results" / "suite.json"
COMMAND = "pytest benchmarks --benchmark-only --store"
LIBRARIES = ("torch", "onnxruntime", "openvino", "faiss-cpu", "numpy", "chroma-hnswlib", "usearch")
QUANTILES = tuple(range(0, 101, 5))


class Turns(NamedTuple):
    """What every way gave: statistics, unit in the name, and quantiles of its times or none."""

    case: str
    parameters: Parameters
    ways: Mapping[str, Mapping[str, float]]
    quantiles_ms: Mapping[str, list[float]]
    work: Mapping[str, int]


@dataclass
class Interleaved:
    """Calls the opponents around each round of the engine, in an order drawn anew each round.

    `before` and `after` are the setup and teardown of pytest-benchmark's rounds: it times the
    engine, and what stands around is timed here.
    """

    ways: Mapping[str, Callable[[], object]]

    def __post_init__(self) -> None:
        self._draw = random.Random(0)
        self._later: list[str] = []
        self.seconds: dict[str, list[float]] = {way: [] for way in self.ways if way != ENGINE}

    def before(self) -> None:
        """The opponents whose turn comes before the engine's."""
        order = list(self.ways)
        self._draw.shuffle(order)
        place = order.index(ENGINE)
        self._call(order[:place])
        self._later = order[place + 1 :]

    def after(self) -> None:
        """The others."""
        self._call(self._later)

    def _call(self, names: list[str]) -> None:
        for name in names:
            begin = time.perf_counter()
            self.ways[name]()
            self.seconds[name].append(time.perf_counter() - begin)


def measure(case: Case, benchmark: Any) -> Turns:
    """Checks every way, then measures all of them in turns; pytest-benchmark has the engine's.

    Raises:
        AssertionError: a way answers wrongly; nothing is timed then.
    """
    if not isinstance(case, Timed):
        found = benchmark.pedantic(case.repeat, rounds=1)
        return Turns(case.name, case.parameters, found, {}, {})
    for way in case.ways:
        case.check(way)
    turns = Interleaved(case.ways)
    for way in case.ways.values():
        way()
    benchmark.pedantic(
        case.ways[ENGINE], setup=turns.before, teardown=turns.after, rounds=case.rounds
    )
    seconds = {ENGINE: list(benchmark.stats.stats.data), **turns.seconds}
    ms = {way: 1e3 * np.array(taken) for way, taken in seconds.items()}
    quantiles = {way: np.percentile(taken, QUANTILES).tolist() for way, taken in ms.items()}
    work = {"nbytes": case.nbytes, "flops": case.flops}
    return Turns(case.name, case.parameters, _summaries(ms), quantiles, work)


def _summaries(ms: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """p50_ms, p95_ms, p99_ms, n and, of an opponent, by how much it is slower than the engine."""
    times = {way: Milliseconds.of(taken) for way, taken in ms.items()}
    found = {way: {**each.in_ms(), "n": float(each.n)} for way, each in times.items()}
    for row in found.values():
        row["p50_ratio"] = row["p50_ms"] / found[ENGINE]["p50_ms"]
    return found


def rows(turns: Turns, bundle: str) -> list[Row]:
    """A line for every way, with what it was measured on."""
    around = surroundings("benchmarks.suite", LIBRARIES) | {"command": COMMAND, "bundle": bundle}
    return [
        {
            "case": turns.case,
            "way": way,
            "statistics": {name: round(value, 5) for name, value in found.items()},
            "quantiles_ms": [round(value, 5) for value in turns.quantiles_ms.get(way, [])],
            "parameters": dict(turns.parameters),
            **turns.work,
            **around,
        }
        for way, found in turns.ways.items()
    ]


def store(turns: Turns, bundle: str, path: Path = RESULTS) -> None:
    """Puts the lines in the place of those of the same case."""
    replace_rows(path, rows(turns, bundle), ("case",))


def table(measured: list[Turns]) -> str:
    """Times of every way; of a case without times its numbers, one a line."""
    lines = [f"{'case':30} {'way':18} {'p50 ms':>10} {'p95 ms':>10} {'p99 ms':>10} {'/ stars':>8}"]
    for turns in measured:
        for way, found in turns.ways.items():
            start = f"{turns.case:30} {way:18}"
            if "p50_ratio" in found:
                times = " ".join(f"{found[name]:10.3f}" for name in ("p50_ms", "p95_ms", "p99_ms"))
                lines.append(f"{start} {times} {found['p50_ratio']:8.2f}")
            else:
                lines += [f"{start} {name} {value:.4g}" for name, value in found.items()]
    return "\n".join(lines)
