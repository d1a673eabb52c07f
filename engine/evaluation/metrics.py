"""Accuracy by the `ir-measures` library; coverage, which it lacks, is ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import ir_measures
import numpy as np
from ir_measures import R, Success, nDCG
from numpy.typing import NDArray
from scipy.stats import bootstrap

_MEASURES = {
    "hit@5": Success @ 5,
    "hit@10": Success @ 10,
    "recall@10": R @ 10,
    "ndcg@10": nDCG @ 10,
}
ACCURACY = tuple(_MEASURES)


def per_request(
    lists: NDArray[np.int64],
    targets: Sequence[NDArray[np.int32]],
    measures: Mapping[str, Any] = _MEASURES,
) -> dict[str, NDArray[np.float64]]:
    """Each measure for every request, [Q].

    Args:
        lists: [Q, k >= 10] item indices, best first, -1 pads.
        targets: [Q] relevant items, at least one each.
        measures: name -> measure of `ir-measures`; those of `ACCURACY` unless given.
    """
    relevant = {str(q): {str(item): 1 for item in items} for q, items in enumerate(targets)}
    # The score is minus the rank: the library would break ties by the item's name.
    run = {
        str(q): {str(item): float(-rank) for rank, item in enumerate(row) if item >= 0}
        for q, row in enumerate(lists.tolist())
    }
    names = {measure: name for name, measure in measures.items()}
    values = {name: np.zeros(len(targets)) for name in measures}
    for result in ir_measures.iter_calc(list(names), relevant, run):
        values[names[result.measure]][int(result.query_id)] = result.value
    return values


def summary(
    values: dict[str, NDArray[np.float64]], lists: NDArray[np.int64], n_catalogue: int
) -> dict[str, float]:
    """Means of `per_request`, and coverage@10."""
    means = {name: float(value.mean()) for name, value in values.items()}
    return means | {"coverage@10": coverage(lists, n_catalogue)}


def coverage(lists: NDArray[np.int64], n_catalogue: int) -> float:
    """Share of the catalogue that stands in anyone's first ten."""
    shown = np.unique(lists[:, :10])
    return float(np.count_nonzero(shown >= 0) / max(n_catalogue, 1))


def paired_difference(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], seed: int = 0
) -> dict[str, float]:
    """mean, low, high of ours - theirs over the same requests: 95 % percentile bootstrap."""
    return interval(ours - theirs, np.arange(len(ours)), seed)


def interval(
    values: NDArray[np.float64], households: NDArray[np.int64], seed: int = 0
) -> dict[str, float]:
    """mean, low, high of requests' values [Q]: 95 % percentile bootstrap over households.

    Args:
        households: [Q] whose request each is: what one household does is drawn together.
    """
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return {"mean": mean, "low": mean, "high": mean}
    _, place = np.unique(households, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    found = bootstrap(
        (sums, counts), _ratio, paired=True, vectorized=True,
        n_resamples=2000, batch=100, method="percentile", rng=seed,
    ).confidence_interval  # fmt: skip
    return {"mean": mean, "low": float(found.low), "high": float(found.high)}


def _ratio(sums: NDArray[Any], counts: NDArray[Any], axis: int = -1) -> NDArray[Any]:
    ratio: NDArray[Any] = sums.sum(axis) / counts.sum(axis)
    return ratio
