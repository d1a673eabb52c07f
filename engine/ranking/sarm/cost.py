"""What SARM costs a request: its graphs beside the ranker without it, in ONNX Runtime."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .serving import SarmRanker, session

_WAYS = ("without", "rank", "user")


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
    base, user = session(plain), ranker.user(history)
    features = {"numbers": numbers, "categories": categories}
    ways: tuple[Callable[[], object], ...] = (
        lambda: base.run(None, features),
        lambda: ranker(numbers, categories, rows, user),
        lambda: ranker.user(history),
    )
    rng = np.random.default_rng(seed)
    taken = np.empty((rounds + warm_up, len(ways)))
    for turn in range(len(taken)):
        for way in rng.permutation(len(ways)):
            begin = time.perf_counter()
            ways[way]()
            taken[turn, way] = 1e3 * (time.perf_counter() - begin)
    taken = taken[warm_up:]
    # Whole rounds are drawn: the ways of one round met the same machine.
    drawn = taken[rng.integers(0, rounds, (resamples, rounds))]
    found: dict[str, Any] = {"candidates": len(rows), "history": len(history), "rounds": rounds}
    for way, name in enumerate(_WAYS):
        p50, p99 = np.percentile(taken[:, way], (50, 99)).tolist()
        found[f"{name}_ms"] = {"p50": p50, "p99": p99}
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
