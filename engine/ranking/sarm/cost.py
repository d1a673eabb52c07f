"""What SARM costs a request: its graph beside the ranker without it, in ONNX Runtime."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .serving import SarmRanker, session


def cost(
    plain: Path,
    ranker: SarmRanker,
    *,
    numbers: NDArray[np.float32],
    categories: NDArray[np.int64],
    authors: NDArray[np.int64],
    history: NDArray[np.int64],
    rounds: int = 400,
    warm_up: int = 50,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Medians of both in ms, and their ratio with its 95 % interval; in turns, on one thread.

    The ranker with SARM is timed with its gathers of bank rows.

    Args:
        plain: graph of the ranker without SARM, over the same features.
        numbers, categories, authors, history: one request, as of `SarmRanker.__call__`.
    Raises:
        ValueError: no rounds.
    """
    if rounds < 1:
        raise ValueError(f"cost: rounds: expected at least 1, got {rounds}")
    base = session(plain)
    features = {"numbers": numbers, "categories": categories}
    rng = np.random.default_rng(seed)
    taken = np.empty((rounds + warm_up, 2))
    for turn in range(len(taken)):
        for way in rng.permutation(2):
            begin = time.perf_counter()
            if way:
                ranker(numbers, categories, authors, history)
            else:
                base.run(None, features)
            taken[turn, way] = 1e3 * (time.perf_counter() - begin)
    taken = taken[warm_up:]
    # Whole rounds are drawn: both ways of one round met the same machine.
    drawn = np.median(taken[rng.integers(0, rounds, (resamples, rounds))], axis=1)
    low, high = np.quantile(drawn[:, 1] / drawn[:, 0], [0.025, 0.975]).tolist()
    p50 = np.median(taken, axis=0).tolist()
    p99 = np.percentile(taken, 99, axis=0).tolist()
    return {
        "candidates": len(authors),
        "history": len(history),
        "rounds": rounds,
        "without_ms": {"p50": p50[0], "p99": p99[0]},
        "with_ms": {"p50": p50[1], "p99": p99[1]},
        "p50_ratio": {"value": p50[1] / p50[0], "low": low, "high": high},
    }
