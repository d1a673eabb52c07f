"""From a user's events to the encoder's inputs: one code for training, export and serving.

Nothing here depends on what comes after an event or on the time of the request: recency is the gap
to the event before, taken before the window is cut, and positions count from the window's start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .data.clock import DAY_S, Clock

RECENCY_BUCKETS = 16
DAY_BIAS_BUCKETS = 11


def window_start(count: int, window: int = 200, hop: int = 50) -> int:
    """First event of the window of a user with `count` events (engine/model/README.md, "Cache")."""
    return 0 if count <= window else hop * -(-(count - window) // hop)


def recency_buckets(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Buckets [n] of the gap to the event before: 0 for the first, then 1 + log2(1 + hours)."""
    buckets = np.zeros(len(times), np.int64)
    hours = np.maximum(np.diff(times), 0) / 3600
    buckets[1:] = np.minimum(1 + np.floor(np.log2(1 + hours)), RECENCY_BUCKETS - 1)
    return buckets


@dataclass(frozen=True)
class Calendar:
    """What is known beforehand about a moment: local time and the shop's daily signals.

    Attributes:
        clock: the shop's local time.
        has_time: False where events have an order but no time; then every field is 0.
        first_day: local day (since 1970-01-01) of the first row of `signals`.
        signals: [days, S] float32, standardised; a day outside counts as the mean, 0.
    """

    clock: Clock
    has_time: bool
    first_day: int
    signals: NDArray[np.float32]

    def fields(self, times: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
        """hour, weekday, week, day of `times` (unix seconds), int64 of the same shape."""
        if not self.has_time:
            return {name: np.zeros_like(times) for name in ("hour", "weekday", "week", "day")}
        return dict(self.clock.local(times)._asdict())

    def signals_on(self, days: NDArray[np.int64]) -> NDArray[np.float32]:
        """Signals [..., S] on local `days` [...]."""
        row = days - self.first_day
        known = (row >= 0) & (row < len(self.signals))
        if not len(self.signals):
            return np.zeros((*days.shape, self.signals.shape[1]), np.float32)
        values = self.signals[np.clip(row, 0, len(self.signals) - 1)]
        return np.where(known[..., None], values, np.float32(0))

    def gap_days(self, times: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.float32]:
        """Days from `last` to `times` (both unix seconds), not negative; 0 without time."""
        if not self.has_time:
            return np.zeros(times.shape, np.float32)
        return np.maximum((times - last) / DAY_S, 0).astype(np.float32)


@dataclass(frozen=True)
class History:
    """One user's events, oldest first: [n] item indices, unix seconds, event-type codes."""

    items: NDArray[np.int32]
    times: NDArray[np.int64]
    types: NDArray[np.int32]


@dataclass(frozen=True)
class UserFeatures:
    """[USER] features of a batch: [B, C] int32 codes (0 unknown), [B, M] float32 (NaN unknown)."""

    categorical: NDArray[np.int32]
    numeric: NDArray[np.float32]

    def inputs(self) -> dict[str, NDArray[np.generic]]:
        """The encoder's inputs: codes, numbers with unknown as 0, and which are known."""
        return {
            "user_categorical": self.categorical.astype(np.int64),
            "user_numeric": np.nan_to_num(self.numeric).astype(np.float32),
            "user_known": np.isfinite(self.numeric).astype(np.float32),
        }


def encode_inputs(
    histories: Sequence[History],
    users: UserFeatures,
    rows: NDArray[np.float32],
    calendar: Calendar,
    window: int,
    hop: int,
) -> Mapping[str, NDArray[np.generic]]:
    """Inputs of the exported `encode` graph for a batch of users, padded to the longest window.

    Args:
        histories: [B] whole histories; the window is cut here.
        users: their features.
        rows: [N, d_model] float32, the folded item table Proj(v).
        calendar: the shop's time and signals.
        window, hop: of the model.
    """
    starts = [window_start(len(h.items), window, hop) for h in histories]
    return event_inputs(histories, starts, users, rows, calendar)


def event_inputs(
    histories: Sequence[History],
    starts: Sequence[int],
    users: UserFeatures,
    rows: NDArray[np.float32],
    calendar: Calendar,
) -> Mapping[str, NDArray[np.generic]]:
    """Inputs of the events from `starts` [B] on, as `encode_inputs` makes them of a window."""
    lengths = np.array([len(h.items) - s for h, s in zip(histories, starts, strict=True)], np.int64)
    shape = (len(histories), max(int(lengths.max(initial=0)), 1))
    items = np.zeros(shape, np.int64)
    times = np.zeros(shape, np.int64)
    event_type = np.zeros(shape, np.int64)
    recency = np.zeros(shape, np.int64)
    for b, (history, start, length) in enumerate(zip(histories, starts, lengths, strict=True)):
        items[b, :length] = history.items[start:]
        times[b, :length] = history.times[start:]
        event_type[b, :length] = history.types[start:]
        if calendar.has_time:
            before = max(start - 1, 0)
            recency[b, :length] = recency_buckets(history.times[before:])[start - before :]
    fields = calendar.fields(times)
    return {
        "rows": rows[items],
        "event_type": event_type,
        **fields,
        "recency": recency,
        "signals": calendar.signals_on(fields["day"]),
        "length": lengths,
        **users.inputs(),
    }
