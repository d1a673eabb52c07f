"""How often each item was sold of late, as of a day."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .compiled import compiled

WINDOWS_DAYS = np.array([7, 28])
N_WINDOWS = len(WINDOWS_DAYS)


@dataclass(frozen=True)
class Sales:
    """Sales of N items, one a session with the item.

    Attributes:
        offsets: [N + 1] int64, item i's are rows `offsets[i]:offsets[i + 1]`, the earliest first.
        day: [S] int32 local days since 1970-01-01.
        until: local day; what was sold on it and later is not known.
    """

    offsets: NDArray[np.int64]
    day: NDArray[np.int32]
    until: int

    @classmethod
    def of(
        cls, items: NDArray[np.int32], days: NDArray[np.int64], n_items: int, until: int
    ) -> "Sales":
        """Of sales [S] in any order."""
        order = np.lexsort((days, items))
        offsets = np.searchsorted(items[order], np.arange(n_items + 1))
        return cls(offsets.astype(np.int64), days[order].astype(np.int32), until)

    def recent(self, items: NDArray[np.int32], days: NDArray[np.int64]) -> NDArray[np.float32]:
        """log1p [n, N_WINDOWS] of the sales of `items` [n] in the windows that end before `days`
        [n], or before `until` where that is earlier."""
        counts = np.empty((len(items), N_WINDOWS), np.float32)
        own = self.offsets, self.day, WINDOWS_DAYS
        _count(counts, own, items, np.minimum(days, self.until))
        return np.log1p(counts)


@compiled
def _count(
    counts: NDArray[np.float32],
    own: tuple[NDArray[Any], ...],
    items: NDArray[np.int32],
    days: NDArray[np.int64],
) -> None:
    """Fills counts [n, N_WINDOWS]; own are offsets, days and windows."""
    offsets, day, windows = own
    for place in range(len(items)):
        sold = day[offsets[items[place]] : offsets[items[place] + 1]]
        end = np.searchsorted(sold, days[place])
        for window in range(len(windows)):
            first = np.searchsorted(sold, days[place] - windows[window])
            counts[place, window] = end - first
