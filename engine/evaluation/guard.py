"""Whether a method reads its own answer: what it must not know is changed, and its lists compared.

A method that knows nothing after a request's moment answers alike whatever came then. Lists are
compared to the item: one that differs is a leak.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engine.data.dataset import Dataset
from engine.errors import StarsError

from .protocol import Task

Method = Callable[[Dataset, Task], NDArray[np.int64]]
_DEVIATIONS = 5.0  # of a share of random orders that chance does not reach


def leaks(method: Method, dataset: Dataset, task: Task, seed: int = 0) -> list[str]:
    """What a method knows and must not; empty for an honest one.

    - `session`: which items the asked session has, the rest of its day included.
    - `future`: any other event from the cut on.
    - `outcome`: what came of an event from the cut on, discounts and coupons.
    - `order`: the place of an item in its basket says what it is, as in files sorted by id. This is
      of the dataset, and so of every method.

    Args:
        method: lists [Q, k] for a dataset and its task; it trains itself, if it does.
        dataset: of the task.
        task: requests; a few dozen users are enough.
        seed: of the changes.
    """
    lists = method(dataset, task)
    found = ["order"] if order_tells(dataset) else []
    for name, changed in _changed(dataset, task, np.random.default_rng(seed)).items():
        if not np.array_equal(method(changed, task), lists):
            found.append(name)
    return found


def check(method: Method, dataset: Dataset, task: Task, name: str) -> None:
    """Raises StarsError, with what leaks, unless the method is honest."""
    if found := leaks(method, dataset, task):
        raise StarsError(
            f"evaluation: {name}: expected lists that know nothing of their answers,"
            f" got some that change with: {', '.join(found)}"
        )


def order_tells(dataset: Dataset) -> bool:
    """Whether items of equal time stand in the order of their ids more, or less, than by chance."""
    user = np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.event_offsets))
    together = (np.diff(dataset.event_time) == 0) & (np.diff(user) == 0)
    steps = np.diff(dataset.event_item.astype(np.int64))[together]
    steps = steps[steps != 0]  # one item of two types
    if not len(steps):
        return False
    return bool(abs((steps > 0).mean() - 0.5) > _DEVIATIONS * 0.5 / len(steps) ** 0.5)


def _changed(dataset: Dataset, task: Task, rng: np.random.Generator) -> dict[str, Dataset]:
    """The dataset with other answers, another future and other outcomes."""
    later = dataset.event_time >= task.cut
    asked = _asked(dataset, task)
    # A permutation of the items, none to itself: what was distinct in a session stays so.
    cycle = rng.permutation(len(dataset.item_ids))
    other = np.empty_like(cycle)
    other[cycle] = np.roll(cycle, 1)
    others = other[dataset.event_item].astype(np.int32)
    return {
        "session": replace(dataset, event_item=np.where(asked, others, dataset.event_item)),
        "future": replace(dataset, event_item=np.where(later & ~asked, others, dataset.event_item)),
        "outcome": replace(dataset, event_outcome=dataset.event_outcome ^ later[:, None]),
    }


def _asked(dataset: Dataset, task: Task) -> NDArray[np.bool_]:
    """[E] events of the sessions that are asked for."""
    asked = np.zeros(len(dataset.event_item), np.bool_)
    for user, time in zip(task.users.tolist(), task.times.tolist(), strict=True):
        first, last = dataset.event_offsets[user : user + 2]
        own = slice(int(first), int(last))
        starts = int(np.searchsorted(dataset.event_time[own], time))
        asked[own] = dataset.event_session[own] == dataset.event_session[own][starts]
    return asked
