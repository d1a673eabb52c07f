"""Lists of ten as the report's numbers: means with intervals, paired differences, coverage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.metrics import ACCURACY, interval, per_request
from engine.training.history import Past

Lists = Mapping[str, NDArray[np.int64]]
Values = dict[str, dict[str, NDArray[np.float64]]]
COMPARED = ("recall@10", "ndcg@10", "hit@5", "hit@10")


def values_of(lists: Lists, targets: Sequence[NDArray[np.int32]]) -> Values:
    """method -> measure -> [Q]."""
    return {name: per_request(rows, targets) for name, rows in lists.items()}


def summary(values: Mapping[str, NDArray[np.float64]], users: NDArray[np.int64]) -> dict[str, Any]:
    """measure -> mean, and `measure_ci` -> [low, high] over households."""
    found: dict[str, Any] = {}
    for measure in ACCURACY:
        of = interval(values[measure], users)
        found |= {measure: of["mean"], f"{measure}_ci": [of["low"], of["high"]]}
    return found


def minus(
    ours: Mapping[str, NDArray[np.float64]],
    theirs: Mapping[str, NDArray[np.float64]],
    users: NDArray[np.int64],
    times: float = 1.0,
) -> dict[str, dict[str, float]]:
    """measure -> mean, low, high of ours − times · theirs over the same requests."""
    return {name: interval(ours[name] - times * theirs[name], users) for name in COMPARED}


def gini(lists: NDArray[np.int64], history: Past) -> float:
    """Gini coefficient of how often each item of the catalogue is shown: 0 is all alike."""
    counts = np.bincount(lists[lists >= 0], minlength=len(history.counts))[history.catalogue]
    ordered = np.sort(counts).astype(np.float64)
    n, total = len(ordered), ordered.sum()
    if not total:
        return 0.0
    return float(2 * (np.arange(1, n + 1) * ordered).sum() / (n * total) - (n + 1) / n)


def mean_popularity_rank(lists: NDArray[np.int64], history: Past) -> float:
    """Mean rank of what is shown among the catalogue by purchases, 1 the most bought."""
    order = np.lexsort((history.catalogue, -history.counts[history.catalogue]))
    rank = np.zeros(len(history.counts))
    rank[history.catalogue[order]] = np.arange(1, len(order) + 1)
    return float(rank[lists[lists >= 0]].mean())
