"""What SARM costs a request: its graphs beside the ranker without it, in ONNX Runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.compile.timing import Milliseconds, in_turns
from engine.runtime.onnx_cpu import open_session

from .serving import SarmRanker


def cost(
    plain: Path,
    ranker: SarmRanker,
    *,
    numbers: NDArray[np.float32],
    categories: NDArray[np.int64],
    rows: NDArray[np.int64],
    history: NDArray[np.int64],
    rounds: int = 400,
    warm_up: int = 50,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Times of the ranker without SARM, with it, and of a user's vector; in turns, on one thread.

    `rank_ratio` is the ranker's p50 with SARM over that without, the user's vector at hand;
    `total_ratio` has the vector computed after the candidates, so that none of it is hidden.
    Both have their 95 % interval over rounds.

    Args:
        plain: graph of the ranker without SARM, over the same features.
        numbers, categories, rows: one request's candidates, as of `SarmRanker.__call__`.
        history: rows of the authors last clicked.
    Raises:
        ValueError: no rounds.
    """
    if rounds < 1:
        raise ValueError(f"cost: rounds: expected at least 1, got {rounds}")
    base, user = open_session(plain, 1, ("logits",)), ranker.user(history)
    features = {"numbers": numbers, "categories": categories}
    ways: dict[str, Callable[[], object]] = {
        "without": lambda: base.run(None, features),
        "rank": lambda: ranker(numbers, categories, rows, user),
        "user": lambda: ranker.user(history),
    }
    times = in_turns(ways, rounds, warm_up, seed)
    taken = np.stack([*times.values()], axis=1)
    # Whole rounds are drawn: the ways of one round met the same machine.
    drawn = taken[np.random.default_rng(seed).integers(0, rounds, (resamples, rounds))]
    found: dict[str, Any] = {"candidates": len(rows), "history": len(history), "rounds": rounds}
    for name, ms in times.items():
        of_way = Milliseconds.of(ms)
        found[f"{name}_ms"] = {"p50": of_way.p50, "p99": of_way.p99}
    for name, parts in (("rank_ratio", [1]), ("total_ratio", [1, 2])):
        ratio = _p50(drawn[:, :, parts].sum(2)) / _p50(drawn[:, :, 0])
        low, high = np.quantile(ratio, [0.025, 0.975]).tolist()
        value = _p50(taken[None][:, :, parts].sum(2)) / _p50(taken[None][:, :, 0])
        found[name] = {"value": float(value[0]), "low": low, "high": high}
    return found


def _p50(ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median over rounds [R, rounds]."""
    found: NDArray[np.float64] = np.median(ms, axis=1)
    return found
