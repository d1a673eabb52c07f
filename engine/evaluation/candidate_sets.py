"""Candidate sets of a session, of several sizes, where there are no impressions to take them from.

One item of the session, drawn, stands among products of the session's own subclasses: first those
that the session's store promoted in its week, in a drawn order, then the best sellers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.data.clock import Clock
from engine.data.dataset import Dataset
from engine.training.history import Past

from .lambdamart_promotions import Promotions
from .protocol import Task

# Sizes of the sets; the paper's last bucket has no upper end.
BUCKETS: Mapping[str, tuple[int, int]] = {
    "1-10": (2, 10), "11-30": (11, 30), "31-100": (31, 100), "101+": (101, 300),
}  # fmt: skip


@dataclass(frozen=True)
class CandidateSets:
    """Sets of R requests.

    Attributes:
        request: [R] int64 places in the task.
        items: [R] arrays of int64 item indices, ascending: their order says nothing.
        positive: [R] int64, the one that was bought.
    """

    request: NDArray[np.int64]
    items: list[NDArray[np.int64]]
    positive: NDArray[np.int64]


def candidate_sets(
    past: Past, task: Task, promotions: Promotions | None, seed: int = 0
) -> dict[str, CandidateSets]:
    """Sets of each size for every session of `task` whose subclasses have as many products.

    Args:
        past: at the task's cut: its catalogue and its counts.
        task: first sessions after the cut.
        promotions: by store and week; None tops up by popularity alone.
        seed: of the item, the sizes and the order of the promoted.
    """
    dataset, rng = past.dataset, np.random.default_rng(seed)
    known = np.zeros(len(dataset.item_ids), np.bool_)
    known[past.catalogue] = True
    sellers = _best_sellers(past)
    found: dict[str, list[tuple[int, NDArray[np.int64], int]]] = {name: [] for name in BUCKETS}
    promoted = _promoted(dataset, task, promotions)
    for place, (target, announced) in enumerate(zip(task.targets, promoted, strict=True)):
        bought = target[known[target]].astype(np.int64)
        positive = int(rng.choice(bought)) if len(bought) else -1
        sizes = {name: int(rng.integers(low, high + 1)) for name, (low, high) in BUCKETS.items()}
        if positive < 0:
            continue
        subclasses = np.unique(dataset.item_subclass[bought])
        announced = announced[
            known[announced] & np.isin(dataset.item_subclass[announced], subclasses)
        ]
        popular = sellers.of(subclasses)
        pool = np.concatenate([rng.permutation(announced), popular])
        _, first = np.unique(pool, return_index=True)
        pool = pool[np.sort(first)]
        pool = pool[~np.isin(pool, bought)]
        for name, size in sizes.items():
            if len(pool) >= size - 1:
                items = np.sort(np.append(pool[: size - 1], positive))
                found[name].append((place, items, positive))
    return {name: _sets(rows) for name, rows in found.items()}


def _sets(rows: list[tuple[int, NDArray[np.int64], int]]) -> CandidateSets:
    return CandidateSets(
        np.array([row[0] for row in rows], np.int64),
        [row[1] for row in rows],
        np.array([row[2] for row in rows], np.int64),
    )


@dataclass(frozen=True)
class _BestSellers:
    """The catalogue by subclass, most bought first: items [A], offsets [subclasses + 1]."""

    items: NDArray[np.int64]
    offsets: NDArray[np.int64]
    counts: NDArray[np.float32]

    def of(self, subclasses: NDArray[np.int32]) -> NDArray[np.int64]:
        """Items of several subclasses, most bought first; of equals the lowest index."""
        own = [self.items[self.offsets[s] : self.offsets[s + 1]] for s in subclasses.tolist()]
        items = np.concatenate(own)
        ordered: NDArray[np.int64] = items[np.lexsort((items, -self.counts[items]))]
        return ordered


def _best_sellers(past: Past) -> _BestSellers:
    subclass, items = past.dataset.item_subclass[past.catalogue], past.catalogue
    order = np.lexsort((items, -past.counts[items], subclass))
    n_subclasses = len(past.dataset.meta.subclasses)
    offsets = np.searchsorted(subclass[order], np.arange(n_subclasses + 1))
    return _BestSellers(items[order], offsets, past.counts)


def _promoted(
    dataset: Dataset, task: Task, promotions: Promotions | None
) -> list[NDArray[np.int64]]:
    """Items that each session's store promoted in its week."""
    none = np.zeros(0, np.int64)
    if promotions is None:
        return [none] * len(task.users)
    n_weeks = promotions.shares.shape[1]
    n_stores = (len(promotions.offsets) - 1) // n_weeks
    weeks = (Clock(dataset.meta.timezone).day(task.times) - promotions.first_day) // 7
    rows = []
    for user, time, week in zip(task.users, task.times, weeks.tolist(), strict=True):
        low, high = np.searchsorted(promotions.visit_user, [user, user + 1])
        at = low + np.searchsorted(promotions.visit_time[low:high], time)
        if at == high or promotions.visit_time[at] != time or not 0 <= week < n_weeks:
            rows.append(none)
            continue
        listing = week * n_stores + int(promotions.visit_store[at])
        inside = slice(*promotions.offsets[listing : listing + 2])
        rows.append(promotions.items[inside].astype(np.int64))
    return rows
