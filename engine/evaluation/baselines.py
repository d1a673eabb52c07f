"""Counting baselines: popularity, personal frequency, and personal frequency with recency decay."""

import numpy as np
from numpy.typing import NDArray

from engine.data.clock import DAY_S
from engine.training.history import Past

from .protocol import Task

HALF_LIFE_DAYS = 90.0


def popularity(past: Past, task: Task, k: int) -> NDArray[np.int64]:
    """The k items bought in most sessions, for everyone: [Q, k] item indices, -1 pads."""
    return np.tile(_padded(_by_popularity(past, k), k), (len(task.users), 1))


def new_popularity(past: Past, task: Task, k: int) -> NDArray[np.int64]:
    """The k items bought in most sessions that the user never had, [Q, k]; -1 pads."""
    ranked = _by_popularity(past, len(past.catalogue))
    lists = np.empty((len(task.users), k), np.int64)
    for row, user in enumerate(task.users.tolist()):
        own = np.unique(past.item[past.events(user)])
        head = ranked[: k + len(own)]
        lists[row] = _padded(head[~np.isin(head, own)], k)
    return lists


def personal(
    past: Past, task: Task, k: int, half_life_days: float | None, shop: Past | None = None
) -> NDArray[np.int64]:
    """Each user's most bought items, [Q, k]; filled up by popularity, then -1 pads.

    Args:
        half_life_days: age at which a session counts half; None counts all sessions alike.
        shop: what popularity is counted of; None is `past`.
    """
    most_popular = _by_popularity(shop or past, 2 * k)
    lists = np.empty((len(task.users), k), np.int64)
    for row, (items, weight) in enumerate(personal_weights(past, task, half_life_days)):
        best = items[np.lexsort((items, -weight))][:k]
        rest = most_popular[~np.isin(most_popular, best)]
        lists[row] = _padded(np.concatenate([best, rest]), k)
    return lists


def personal_weights(
    past: Past, task: Task, half_life_days: float | None
) -> list[tuple[NDArray[np.int32], NDArray[np.float64]]]:
    """Items that each user bought, ascending, and in how many sessions; arguments of `personal`."""
    found = []
    for user, time in zip(task.users.tolist(), task.times.tolist(), strict=True):
        bought = past.repeats[user]
        if half_life_days is None:
            weight = np.ones(len(bought.item))
        else:
            weight = np.exp2(-(time - bought.last_time) / DAY_S / half_life_days)
        items, place = np.unique(bought.item, return_inverse=True)
        counted = np.bincount(place, weight, len(items)).astype(np.float64)
        found.append((items, counted))
    return found


def _by_popularity(past: Past, k: int) -> NDArray[np.int64]:
    order = np.lexsort((past.catalogue, -past.counts[past.catalogue]))[:k]
    items: NDArray[np.int64] = past.catalogue[order]
    return items


def _padded(items: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """The first k items [k]; -1 where there are fewer."""
    return np.concatenate([items[:k], np.full(max(k - len(items), 0), -1)])
