"""A dataset's events as compiled code reads them, and what all users' events before a cut say."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.clock import DAY_S, Clock
from engine.data.dataset import Dataset
from engine.errors import ConfigError

_PRIOR = 5.0  # observations that the mean over all items counts as


class Events:
    """A dataset's events of some types, by user and time, as arrays that compiled code reads."""

    def __init__(self, dataset: Dataset, types: tuple[str, ...]) -> None:
        """Raises ConfigError for a type that the data has not."""
        known = dataset.meta.event_types
        if missing := sorted(set(types) - set(known)):
            raise ConfigError(
                f"lambdamart.event_types: expected some of the data's event types {known}, "
                f"got also {missing}"
            )
        codes = [known.index(name) for name in types]
        keep = np.isin(dataset.event_type, codes)
        owner = np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.event_offsets))
        self.clock = Clock(dataset.meta.timezone)
        self.n_items, self.n_users = len(dataset.item_ids), len(dataset.user_ids)
        self.n_subclasses = len(dataset.meta.subclasses)
        self.subclass = dataset.item_subclass
        self.user = owner[keep]
        self.offsets = np.searchsorted(self.user, np.arange(self.n_users + 1)).astype(np.int64)
        self.item, self.session = dataset.event_item[keep], dataset.event_session[keep]
        self.time: NDArray[np.int64] = dataset.event_time[keep]
        self.weekday = self.clock.local(self.time).weekday


@dataclass(frozen=True)
class Shop:
    """What all users' events before a cut say.

    Attributes:
        items: [N, 6] float64: users' sessions with the item, its buyers, its rate of buying again,
            days between purchases, sessions of the last 7 and of the last 28 days.
        subclass_28d: [S] float64, purchases of the last 28 days.
        popular: [P] int32 items, most bought of the last 28 days first.
        by_subclass: [S, B] int32 the same in each subclass, -1 pads.
    """

    items: NDArray[np.float64]
    subclass_28d: NDArray[Any]
    popular: NDArray[np.int32]
    by_subclass: NDArray[np.int32]

    @staticmethod
    def of(events: Events, cut: int, popular: int, per_subclass: int) -> "Shop":
        """The shop as of `cut`."""
        before = events.time < cut
        item, time = events.item[before], events.time[before]
        key = events.user[before] * events.n_items + item
        # Events are by user and time: a stable sort keeps a user's purchases of an item in order.
        order = np.argsort(key, kind="stable")
        first = np.flatnonzero(np.diff(key[order], prepend=-1))
        counts = np.diff(np.append(first, len(key)))
        span = (time[order[first + counts - 1]] - time[order[first]]) / DAY_S
        of = item[order[first]]

        def total(items: NDArray[Any], weights: Any = None) -> NDArray[np.float64]:
            sums = np.bincount(items, weights, minlength=events.n_items)
            return sums.astype(np.float64)

        bought, buyers = total(item), total(of)
        again, spans = total(of, counts > 1), total(of, span)
        rate = again.sum() / max(buyers.sum(), 1)
        gap = spans.sum() / max((counts - 1).sum(), 1)
        week, month = (total(item[time >= cut - days * DAY_S]) for days in (7, 28))
        columns = (
            bought,
            buyers,
            (again + _PRIOR * rate) / (buyers + _PRIOR),
            (spans + _PRIOR * gap) / (bought - buyers + _PRIOR),
            week,
            month,
        )
        known = np.flatnonzero(bought)
        ranked = known[np.lexsort((known, -bought[known], -month[known]))]
        subclass_28d = np.bincount(events.subclass, month, events.n_subclasses)
        return Shop(
            items=np.stack(columns, axis=1),
            subclass_28d=subclass_28d,
            popular=ranked[:popular].astype(np.int32),
            by_subclass=_tops(events.subclass[ranked], ranked, events.n_subclasses, per_subclass),
        )


def _tops(
    subclass: NDArray[np.int32], ranked: NDArray[np.int64], n: int, k: int
) -> NDArray[np.int32]:
    """[n, k] the first k of `ranked` of each subclass, -1 pads."""
    order = np.argsort(subclass, kind="stable")
    sorted_subclass = subclass[order]
    place = np.arange(len(order)) - np.searchsorted(sorted_subclass, sorted_subclass)
    kept = place < k
    tops = np.full((n, k), -1, np.int32)
    tops[sorted_subclass[kept], place[kept]] = ranked[order][kept]
    return tops
