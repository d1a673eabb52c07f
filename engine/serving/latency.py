"""Latency of served models, measured side by side on one server."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.compile.timing import Milliseconds

from .client import Protocol, StarsClient

# Holds the model stars_null, which takes and returns the tensors of stars and does nothing.
NULL_REPOSITORY = Path(__file__).resolve().parents[2] / "benchmarks" / "model_repository"


def measure(
    url: str,
    requests: Sequence[Mapping[str, Any]],
    *,
    models: Sequence[str] = ("stars", "stars_null"),
    protocol: Protocol = "grpc",
    n: int = 500,
    warm_up: int = 50,
) -> dict[str, dict[str, float]]:
    """Times `n` requests to each model, one at a time, the models taking turns.

    Args:
        url: host:port of the server, for the protocol.
        requests: keyword arguments of StarsClient.recommend, taken round and round.
        warm_up: rounds that are not counted.
    Returns:
        model -> {"p50", "p95", "p99"} in milliseconds, client included, and "n".
    """
    clients = {model: StarsClient(url, protocol, model=model) for model in models}
    times_ms: dict[str, list[float]] = {model: [] for model in models}
    for turn in range(warm_up + n):
        arguments = requests[turn % len(requests)]
        for model, client in clients.items():
            start = time.perf_counter()
            client.recommend(**arguments)
            times_ms[model].append((time.perf_counter() - start) * 1e3)
    for client in clients.values():
        client.close()
    return {model: Milliseconds.of(times_ms[model][warm_up:])._asdict() for model in models}
