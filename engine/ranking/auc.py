"""Area under the ROC curve per objective, over all impressions and within requests, with intervals.

The order of a request's own candidates is what a page shows, so GAUC (the mean over requests of
their AUC) is what a ranker is chosen by; the AUC over all impressions also rewards knowing which
request converts at all.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

F64 = NDArray[np.float64]
Ids = NDArray[np.int64]
Labels = NDArray[np.bool_]

_CHUNK = 2**21  # weights of resampled impressions held at once


@dataclass(frozen=True)
class GroupedAuc:
    """Mean AUC over the requests with both classes, and how many those were, per objective."""

    mean: F64  # [M], NaN where no request has both classes
    counted: Ids  # [M]
    left_out: Ids  # [M] requests whose labels are all alike


def request_ranks(scores: F64, request: Ids) -> F64:
    """Ascending ranks 1..n_q within each request, ties at their mean, [n]."""
    if len(scores) == 0:
        return np.zeros(0)
    values, place = np.unique(scores, return_inverse=True)
    before = np.cumsum(np.bincount(request)) - np.bincount(request)
    ranks: F64 = rankdata(request * len(values) + place.ravel()) - before[request]
    return ranks


def per_request(scores: F64, labels: Labels, request: Ids) -> F64:
    """(Σ ranks of positives - n⁺(n⁺ + 1)/2)/(n⁺n⁻) of every request and objective.

    Args:
        scores: [n] finite, higher is better.
        labels: [n, M] bool.
        request: [n] in 0..Q - 1, in any order.
    Returns:
        [Q, M], NaN where a request's labels are all alike.
    Raises:
        ValueError: lengths that differ, or a score that is NaN.
    """
    if not len(scores) == len(labels) == len(request):
        raise ValueError(
            "auc: scores, labels and request: expected one length,"
            f" got {len(scores)}, {len(labels)} and {len(request)}"
        )
    if np.isnan(scores).any():
        row = int(np.flatnonzero(np.isnan(scores))[0])
        raise ValueError(f"auc: scores: expected numbers, got NaN at row {row}")
    ranks = request_ranks(scores, request)
    size = np.bincount(request)[:, None]  # [Q, 1]
    positive = _sums(labels.astype(np.float64), request)
    pairs = positive * (size - positive)
    area = _sums(ranks[:, None] * labels, request) - positive * (positive + 1) / 2
    found: F64 = np.divide(area, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
    return found


def auc(scores: F64, labels: Labels) -> F64:
    """AUC over all impressions, [M]; NaN for an objective whose labels are all alike."""
    if len(scores) == 0:
        return np.full(labels.shape[1], np.nan)
    found: F64 = per_request(scores, labels, np.zeros(len(scores), np.int64))[0]
    return found


def gauc(scores: F64, labels: Labels, request: Ids) -> GroupedAuc:
    """Mean over requests of `per_request`, each counted once."""
    values = per_request(scores, labels, request)
    both = ~np.isnan(values)
    counted = both.sum(0)
    mean = np.divide(
        np.nansum(values, 0), counted, out=np.full(len(counted), np.nan), where=counted > 0
    )
    shown = np.unique(request).size
    return GroupedAuc(mean, counted, shown - counted)


def bootstrap(
    scores: F64,
    labels: Labels,
    request: Ids,
    *,
    grouped: bool,
    unit: Ids | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> F64:
    """AUC (or GAUC) of S score vectors on the same resamples, [resamples, S, M].

    Units are drawn, not impressions, since those of one unit depend on each other. As all S see
    the same draws, differences between them are paired. NaN where a draw lacks a class.

    Args:
        scores: [S, n].
        grouped: GAUC instead of AUC.
        unit: [n] what is drawn, whole requests each, as a user; None is the request itself.
    Raises:
        ValueError: a request of two units.
    """
    first = np.zeros(int(request.max()) + 1, np.int64)
    unit = request if unit is None else unit
    first[request] = unit
    if (split := first[request] != unit).any():
        wrong = int(request[split][0])
        raise ValueError(f"auc: unit: expected whole requests, got two units in request {wrong}")
    shown = np.bincount(unit) > 0
    rng = np.random.default_rng(seed)
    drawn_units = rng.multinomial(shown.sum(), shown / shown.sum(), size=resamples)
    weight = drawn_units.astype(np.float64)[:, first]  # [resamples, Q]
    if grouped:
        values = np.stack([per_request(row, labels, request) for row in scores], 1)  # [Q, S, M]
        with np.errstate(invalid="ignore"):  # 0/0 is the NaN that is promised
            found: F64 = np.tensordot(weight, np.nan_to_num(values), 1) / np.tensordot(
                weight, (~np.isnan(values)).astype(np.float64), 1
            )
        return found
    draws = np.empty((resamples, len(scores), labels.shape[1]))
    step = max(1, _CHUNK // len(request))
    for s, row in enumerate(scores):
        order = np.argsort(row)
        tie = np.flatnonzero(np.r_[True, np.diff(row[order]) != 0])
        for start in range(0, resamples, step):
            drawn = weight[start : start + step, request[order]]  # [step, n]
            for m in range(labels.shape[1]):
                draws[start : start + step, s, m] = _weighted(drawn, labels[order, m], tie)
    return draws


def interval(draws: F64, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of draws [R], those that lack a class left out."""
    tail = (1 - level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _sums(values: F64, request: Ids) -> F64:
    """Sums of the rows of each request, [Q, M]."""
    return np.stack([np.bincount(request, column) for column in values.T], 1)


def _weighted(weight: F64, label: Labels, tie: Ids) -> F64:
    """AUC of impressions in order of score, each counted `weight` times, [R]."""
    positive = np.add.reduceat(weight * label, tie, axis=1)
    negative = np.add.reduceat(weight * ~label, tie, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(invalid="ignore"):
        area: F64 = (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))
    return area
