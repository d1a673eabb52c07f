"""Items that a user never bought, ordered by more than the vectors where nothing else is asked for.

A vector knows what a user likes, not what everyone buys this week. A request that excludes repeats
has its CANDIDATES nearest items, and as many that sell or are promoted most, scored again:
z = s (h·c) + b + w·x, by what was sold of late, what is promoted, and what the user buys of the
item's subclass. In a list with repeats nothing is scored again: there the few new items compete
with bought ones, whose logits know all this.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.catalogue.catalogue import Catalogue
from engine.compiled import compiled
from engine.data.clock import DAY_S
from engine.promotions import Promotions
from engine.repeats import HALF_LIVES_DAYS
from engine.retrieval.index import TopK, highest
from engine.retrieval.mask import are_allowed

if TYPE_CHECKING:
    from .query import Query

Floats = NDArray[np.float32]
CANDIDATES = 500  # what the index of a GPU answers at most
FEATURES = (
    "dot", "log_sold_7d", "log_sold_28d", "log_p", "log_of_subclass", "log_of_subclass_45d",
    "of_subclass",
)  # fmt: skip
_DAYS_KEPT = 64
_HALF_LIFE = 1  # of HALF_LIVES_DAYS
assert HALF_LIVES_DAYS[_HALF_LIFE] == 45


class Discovery:
    """Scores the candidates of requests that exclude repeats.

    Args:
        catalogue: of the items.
        bias: [N] the prior b.
        promotions: of K kinds; None is K = 0.
        has_time: False where the shop's events have an order alone; nothing fades then.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        bias: Floats,
        promotions: Promotions | None,
        has_time: bool = True,
    ) -> None:
        self._has_time = has_time
        self._bias, self._promotions, self._candidates = bias, promotions, catalogue.candidates
        self._active = np.flatnonzero(catalogue.active).astype(np.int32)
        self._selling_on: dict[int, NDArray[np.int64]] = {}
        self._subclass = catalogue.statistics.subclass
        self._n_subclasses = int(self._subclass.max(initial=-1)) + 1
        self._of_items = np.concatenate([catalogue.sold, catalogue.log_p[:, None]], axis=1)

    @property
    def n_features(self) -> int:
        """len(FEATURES) + K."""
        return len(FEATURES) + (0 if self._promotions is None else self._promotions.kinds)

    def candidates(
        self, query: "Query", vector: Floats, nearest: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], Floats]:
        """Items [n], ascending, and their features [n, n_features].

        Args:
            vector: [D] of the query.
            nearest: items that the index found for it; -1 pads.
        """
        selling = self._selling(query.moment.day)
        selling = selling[are_allowed(query.allowed, selling)]
        selling = selling[~np.isin(selling, query.state.item)]
        items = np.union1d(nearest[nearest >= 0], selling)
        return items, self._features(query, items, self._candidates[items] @ vector)

    def _selling(self, day: int) -> NDArray[np.int64]:
        """The CANDIDATES active items of the highest sales and promotions on a day."""
        if day not in self._selling_on:
            if len(self._selling_on) >= _DAYS_KEPT:
                self._selling_on.clear()
            active = self._active
            score = self._of_items[active, 1]
            if self._promotions is not None:
                strength = self._promotions.at(active, np.full(len(active), day, np.int64))
                score = score + np.sqrt(strength).sum(axis=1)
            best = np.argsort(-score, kind="stable")[:CANDIDATES]
            self._selling_on[day] = active[best].astype(np.int64)
        return self._selling_on[day]

    def _features(self, query: "Query", items: NDArray[np.int64], dot: Floats) -> Floats:
        """[n, n_features] of items [n] and their h·c [n]: FEATURES, then the square roots of the
        strengths of the day's promotions."""
        rows = np.empty((len(items), len(FEATURES)), np.float32)
        state = query.state
        own = state.item, state.count, state.last_time, state.decayed[:, _HALF_LIFE]
        of_catalogue = self._subclass, self._of_items
        time = query.time if self._has_time else 0
        _fill(rows, items, dot, own, time, of_catalogue, self._n_subclasses)
        if self._promotions is None:
            return rows
        strength = self._promotions.at(
            items.astype(np.int32), np.full(len(items), query.moment.day, np.int64)
        )
        return np.concatenate([rows, np.sqrt(strength)], axis=1)

    def best(
        self, query: "Query", head: int, nearest: NDArray[np.int64], weights: Floats, k: int
    ) -> tuple[Floats, NDArray[np.int64]]:
        """Scores and items [k] of the best candidates of one vector; -inf and -1 pad.

        Args:
            nearest: items that the index found for it; -1 pads.
            weights: [n_features].
        """
        items, features = self.candidates(query, query.vectors[head], nearest)
        scores = features @ weights + self._bias[items]
        best = TopK.empty(1, k)
        highest(scores, items, best.scores[0], best.items[0])
        return best.scores[0], best.items[0]


@compiled
def _fill(
    rows: Floats,
    items: NDArray[np.int64],
    dot: Floats,
    own: tuple[NDArray[Any], ...],
    time: int,
    of_catalogue: tuple[NDArray[Any], ...],
    n_subclasses: int,
) -> None:
    """Fills the FEATURES [n, F].

    Args:
        own: item, count, last_time and decayed count of the user's state.
        of_catalogue: subclass [N], and the columns after the dot product [N, 3].
    """
    subclass, of_items = of_catalogue
    item, count, last_time, decayed = own
    bought, recent = np.zeros(n_subclasses, np.float32), np.zeros(n_subclasses, np.float32)
    for place in range(len(item)):
        kind = subclass[item[place]]
        days = max((time - last_time[place]) / DAY_S, 0.0)
        bought[kind] += count[place]
        recent[kind] += decayed[place] * np.exp2(-days / HALF_LIVES_DAYS[_HALF_LIFE])
    for row in range(len(items)):
        kind = subclass[items[row]]
        rows[row, 0] = dot[row]
        rows[row, 1:4] = of_items[items[row]]
        rows[row, 4] = np.log1p(bought[kind])
        rows[row, 5] = np.log1p(recent[kind])
        rows[row, 6] = bought[kind] > 0
