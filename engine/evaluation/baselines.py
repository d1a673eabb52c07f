"""Counting baselines: popularity, personal frequency, and personal frequency with recency decay."""

import numpy as np
from numpy.typing import NDArray

from engine.data.clock import DAY_S
from engine.training.history import Past

from .protocol import Task

HALF_LIFE_DAYS = 90.0


def popularity(past: Past, task: Task, k: int) -> NDArray[np.int64]:
    """The k items bought in most sessions, for everyone: [Q, k] item indices."""
    order = np.lexsort((past.catalogue, -past.counts[past.catalogue]))[:k]
    return np.tile(past.catalogue[order], (len(task.users), 1))


def personal(past: Past, task: Task, k: int, half_life_days: float | None) -> NDArray[np.int64]:
    """Each user's most bought items, [Q, k]; filled up by popularity.

    Args:
        half_life_days: age at which a session counts half; None counts all sessions alike.
    """
    most_popular = popularity(past, task, 2 * k)[0] if len(task.users) else np.zeros(0, np.int64)
    lists = np.empty((len(task.users), k), np.int64)
    for row, (user, time) in enumerate(zip(task.users.tolist(), task.times.tolist(), strict=True)):
        bought = past.repeats[user]
        if half_life_days is None:
            weight = np.ones(len(bought.item))
        else:
            weight = np.exp2(-(time - bought.last_time) / DAY_S / half_life_days)
        items, place = np.unique(bought.item, return_inverse=True)
        score = np.bincount(place, weights=weight, minlength=len(items))
        best = items[np.lexsort((items, -score))][:k]
        rest = most_popular[~np.isin(most_popular, best)]
        lists[row] = np.concatenate([best, rest])[:k]
    return lists
