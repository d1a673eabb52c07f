"""What is promoted and when, as a shop announces it: known before the day, by item."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled


@dataclass(frozen=True)
class Promotions:
    """Promotions of N items, of K kinds.

    Attributes:
        offsets: [N + 1] int64, item i's are rows `offsets[i]:offsets[i + 1]`, the earliest first;
            no two of an item share a day.
        first_day, last_day: [R] int32 local days since 1970-01-01, both included.
        strength: [R, K] float32 of each kind; 0 is no promotion.
    """

    offsets: NDArray[np.int64]
    first_day: NDArray[np.int32]
    last_day: NDArray[np.int32]
    strength: NDArray[np.float32]

    @property
    def kinds(self) -> int:
        """K."""
        return int(self.strength.shape[1])

    def at(self, items: NDArray[np.int32], days: NDArray[np.int64]) -> NDArray[np.float32]:
        """Strengths [n, K] of `items` [n] on local `days` [n]; 0 where nothing was announced.

        Items past the N, such as were added later, have none.
        """
        found = np.zeros((len(items), self.kinds), np.float32)
        if self.kinds:
            own = self.offsets, self.first_day, self.last_day, self.strength
            _look_up(found, own, items, days)
        return found

    def since(self, day: int) -> "Promotions":
        """Those that last until `day` or longer."""
        keep = self.last_day >= day
        offsets = np.concatenate([[0], np.cumsum(keep)])[self.offsets]
        return Promotions(offsets, self.first_day[keep], self.last_day[keep], self.strength[keep])


@compiled
def _look_up(
    found: NDArray[np.float32],
    own: tuple[NDArray[Any], ...],
    items: NDArray[np.int32],
    days: NDArray[np.int64],
) -> None:
    """Fills `found`; `own` are the fields of Promotions."""
    offsets, first_day, last_day, strength = own
    for place in range(len(items)):
        item = items[place]
        if item + 1 >= len(offsets):
            continue
        low, high = offsets[item], offsets[item + 1]
        row = low + np.searchsorted(first_day[low:high], days[place], "right") - 1
        if row >= low and days[place] <= last_day[row]:
            for kind in range(strength.shape[1]):
                found[place, kind] = strength[row, kind]
