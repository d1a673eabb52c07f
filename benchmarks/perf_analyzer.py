"""NVIDIA's perf_analyzer: found, run, and its export read.

Latencies and rates are computed here from the exported timestamps of every request: with a given
number of requests perf_analyzer divides by whole seconds and reports a rate too low by up to half.
"""

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from engine.compile.timing import Milliseconds
from engine.errors import BackendUnavailable, ServerError

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "tools" / "perf_analyzer"
PROBE_LIMIT_S = 300  # a wrapper fetches it the first time
LIMIT_S = 12  # beyond its seconds: where a server falls far behind, it hangs now and then
KEEPS_UP = 0.95  # of the requests, answered while they came: else a queue grows
WARM_UP = 50  # requests at a rate, before those that count
_WINDOW_MS = 500
_LEAST = 200  # requests of a run: of fewer there is no 99th percentile
Protocol = Literal["grpc", "http"]


class Unfinished(ServerError):  # noqa: N818 - reads as what it says
    """A run that did not end in time."""


@dataclass(frozen=True)
class Target:
    """What is put under load.

    Over HTTP perf_analyzer sends any JSON body to any path, in what it calls the service of OpenAI:
    so a Triton Server gets a request's parameters, which it gets in no other way over HTTP, and any
    other service the same load from the same client.

    Attributes:
        url: host:port.
        protocol: "grpc" of a Triton Server, or "http".
        name: of the model over gRPC, a path over HTTP.
        inputs: file of --input-data (benchmarks.load_inputs).
        parameters: of every request over gRPC; HTTP has them in its bodies.
    """

    url: str
    protocol: Protocol
    name: str
    inputs: Path
    parameters: Mapping[str, int]


@dataclass(frozen=True)
class Load:
    """What one run saw of each request, in the order in which they were sent.

    Attributes:
        sent_ns: [n] int64, when.
        latency_ms: [n] float64, from there to the whole answer.
        client_us: mean time in which the client wrote requests and read answers.
    """

    sent_ns: NDArray[np.int64]
    latency_ms: NDArray[np.float64]
    client_us: float

    @classmethod
    def read(cls, export: Path, table: Path) -> Self:
        """From --profile-export-file and -f, of one experiment.

        Raises:
            ServerError: the export is not whole, or a request has no answer.
        """
        text = export.read_text(encoding="utf-8") if export.is_file() else ""
        if not text:
            raise ServerError(
                f"{export.name}: expected requests, got none: perf_analyzer writes nothing where "
                "an answer over gRPC holds an infinite score, as one of fewer than k items does"
            )
        requests = json.loads(text)["experiments"][0]["requests"]
        if not requests:
            raise ServerError(f"{export.name}: expected requests, got none")
        lost = sum(len(request["response_timestamps"]) != 1 for request in requests)
        if lost:
            raise ServerError(
                f"{export.name}: expected one answer to each of {len(requests)} requests, "
                f"got {lost} without"
            )
        sent = np.array([request["timestamp"] for request in requests], np.int64)
        done = np.array([request["response_timestamps"][0] for request in requests], np.int64)
        order = np.argsort(sent, kind="stable")
        return cls(sent[order], (done - sent)[order] / 1e6, _client_us(table))

    @property
    def arrival_per_s(self) -> float:
        """Requests sent in a second."""
        return float((len(self.sent_ns) - 1) / (self.sent_ns[-1] - self.sent_ns[0]) * 1e9)

    @property
    def throughput_per_s(self) -> float:
        """Requests answered in a second."""
        since_ns = self.sent_ns - self.sent_ns[0]  # unix nanoseconds are beyond float64
        return float(len(since_ns) / (since_ns + self.latency_ms * 1e6).max() * 1e9)

    def statistics(self) -> dict[str, float]:
        """Percentiles of the latency, throughput and n."""
        times = Milliseconds.of(self.latency_ms)
        return {**times.in_ms(), "throughput_per_s": self.throughput_per_s, "n": times.n}


@cache
def find() -> Path:
    """The perf_analyzer on PATH, or a wrapper beside the project that brings a newer libc.

    Raises:
        BackendUnavailable: there is none that runs here; says what was tried.
    """
    reasons = []
    for path in (shutil.which("perf_analyzer"), str(BESIDE) if BESIDE.is_file() else None):
        if path is not None:
            probe = subprocess.run(
                [path, "--version"],
                capture_output=True,
                text=True,
                timeout=PROBE_LIMIT_S,
                check=False,
            )
            if probe.returncode == 0:
                return Path(path)
            reasons.append(f"{path}: {probe.stderr.strip()[-200:]}")
    raise BackendUnavailable(
        "perf_analyzer: expected one that runs here, got "
        f"{'; '.join(reasons) or 'none'}; install it with `pip install perf-analyzer` (glibc 2.38)"
    )


def closed_loop(target: Target, concurrency: int, seconds: float = 3.0) -> Load:
    """Load of `concurrency` clients, each of which sends when it was answered.

    Now and then a run waits for answers that never come, while the server is idle: then it is
    said on stderr, and asked once more. A server that really hangs fails the second time too.

    Args:
        seconds: about; at least 1.5, since a window without an answer makes perf_analyzer fail.
    """
    window_ms = max(_WINDOW_MS, round(seconds * 1000 / 3))
    load = (
        *("--concurrency-range", str(concurrency), "--measurement-interval", str(window_ms)),
        # Three windows whatever they hold: whether they agree is for the caller's repeats to say.
        *("--stability-percentage", "999"),
    )
    try:
        return _run(target, seconds, *load)
    except Unfinished as error:
        print(f"{error}; asked once more", file=sys.stderr)
        return _run(target, seconds, *load)


def poisson(target: Target, rate_per_s: float, seconds: float = 3.0) -> Load:
    """Requests at random times, sent whether or not the ones before were answered.

    Args:
        seconds: at least 1; perf_analyzer refuses fewer requests than that.
    """
    n = max(_LEAST, ceil(rate_per_s * seconds))
    return _run(
        target,
        n / rate_per_s,
        *("--request-rate-range", f"{rate_per_s:.3f}", "--request-distribution", "poisson"),
        *("--request-count", str(n)),
        *("--warmup-request-count", str(WARM_UP)),
    )


def holds(target: Target, objective_ms: float, seconds: float) -> Callable[[float], float | None]:
    """For `highest_rate`: p99 is within the objective, and answers keep up with requests."""

    def held(rate_per_s: float) -> float | None:
        try:
            load = poisson(target, rate_per_s, seconds)
        except Unfinished:
            return None
        keeps_up = load.throughput_per_s >= KEEPS_UP * load.arrival_per_s
        within = load.statistics()["p99_ms"] <= objective_ms
        return load.arrival_per_s if keeps_up and within else None

    return held


def _run(target: Target, seconds: float, *load: str) -> Load:
    """One run that should take `seconds`.

    Raises:
        Unfinished: it did not end.
        ServerError: it failed, or a request did; in perf_analyzer's own words.
    """
    with tempfile.TemporaryDirectory() as folder:
        export, table = Path(folder) / "export.json", Path(folder) / "table.csv"
        # By threads each would wait for its answer, and a request at a rate for a free thread.
        command = [str(find()), *_where(target), *load, "--async"]
        command += ["--input-data", str(target.inputs), "--profile-export-file", str(export)]
        command += ["-f", str(table), "--verbose-csv"]
        limit_s = LIMIT_S + 2 * seconds
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            words = " ".join(load)
            raise Unfinished(
                f"{target.name}: expected perf_analyzer {words} to end within {limit_s:g} s"
            ) from None
        if done.returncode != 0:
            said = " ".join((done.stderr.strip() or done.stdout[-500:]).split())
            raise ServerError(
                f"{target.name}: expected answers to perf_analyzer {' '.join(load)}, got: {said}"
            )
        return Load.read(export, table)


def _where(target: Target) -> list[str]:
    if target.protocol == "http":
        service = ["--service-kind", "openai", "--endpoint", target.name, "-m", "none"]
        return [*service, "-u", target.url]
    given = [f"{name}:{value}:int" for name, value in target.parameters.items()]
    options = [word for one in given for word in ("--request-parameter", one)]
    return ["-m", target.name, "-i", "grpc", "-u", target.url, *options]


def _client_us(table: Path) -> float:
    """From a table with one row."""
    with table.open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    return float(row["Client Send"]) + float(row["Client Recv"])
