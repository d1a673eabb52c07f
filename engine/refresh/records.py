"""Users' stored records from their events: one code for the export and for the daily refresh."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.features import Calendar, History, UserFeatures, encode_inputs, window_start
from engine.repeats import RepeatState, repeat_history
from engine.runtime.inputs import Encoder
from engine.store.users import UserRecord

USERS_AT_ONCE = 8  # more of full windows fit no cache of a core, and are slower on a CPU


@dataclass(frozen=True)
class UserEvents:
    """Users and their events up to a cut, in the terms of a bundle.

    Attributes:
        user_ids: [U] bytes 'S', ascending, UTF-8.
        categorical: [U, C] int32. numeric: [U, M] float32.
        offsets: [U + 1] int64; events of user u are item[offsets[u]:offsets[u + 1]] and so on.
        item, type, session: [E] int32. time: [E] int64, oldest first.
        counted: [E] bool, events that the bundle's item statistics hold; None where it is all.
    """

    user_ids: NDArray[np.bytes_]
    categorical: NDArray[np.int32]
    numeric: NDArray[np.float32]
    offsets: NDArray[np.int64]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    type: NDArray[np.int32]
    session: NDArray[np.int32]
    counted: NDArray[np.bool_] | None = None

    def events(self, user: int) -> slice:
        """Where the user's events lie in the flat arrays."""
        return slice(int(self.offsets[user]), int(self.offsets[user + 1]))

    def history(self, user: int) -> History:
        """The user's whole past."""
        at = self.events(user)
        return History(self.item[at], self.time[at], self.type[at])


@dataclass(frozen=True)
class RecordMaker:
    """Makes records as one bundle's request path reads them.

    Attributes:
        encoder: of the bundle's graph.
        rows: [N, d_model] float32, the folded item table.
        calendar: the shop's time and signals.
        window, hop: of the model.
        repeat_codes: event types that make an item a repeat.
        purchases: [N] float32, how many of each item the bundle's statistics hold.
    """

    encoder: Encoder
    rows: NDArray[np.float32]
    calendar: Calendar
    window: int
    hop: int
    repeat_codes: tuple[int, ...]
    purchases: NDArray[np.float32]

    def records(self, users: UserEvents) -> list[UserRecord]:
        """The record of every user, in their order."""
        if not len(users.user_ids):
            return []
        h_next, h_gen = self._vectors(users)
        return [
            UserRecord(
                user_id=name.decode("utf-8", "surrogatepass"),
                h_next=h_next[user],
                h_gen=h_gen[user],
                categorical=users.categorical[user],
                numeric=users.numeric[user],
                items=users.item[users.events(user)],
                times=users.time[users.events(user)],
                types=users.type[users.events(user)],
                sessions=users.session[users.events(user)],
                repeats=self._repeats(users, users.events(user)),
            )
            for user, name in enumerate(users.user_ids.tolist())
        ]

    def _vectors(self, users: UserEvents) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """h_next and h_gen [U, D]; users of like length are encoded together."""
        parts, order = [], []
        for batch in self._by_length(users):
            inputs = encode_inputs(
                [users.history(user) for user in batch.tolist()],
                UserFeatures(users.categorical[batch], users.numeric[batch]),
                self.rows,
                self.calendar,
                self.window,
                self.hop,
            )
            parts.append(np.stack(self.encoder.encode(inputs)))
            order.append(batch)
        vectors = np.concatenate(parts, axis=1)
        vectors[:, np.concatenate(order)] = vectors.copy()
        return vectors[0], vectors[1]

    def _by_length(self, users: UserEvents) -> Iterator[NDArray[np.int64]]:
        """Batches of users whose windows are of like length, so that little is padded."""
        counts = np.diff(users.offsets)
        starts = [window_start(count, self.window, self.hop) for count in counts.tolist()]
        order = np.argsort(counts - np.array(starts, np.int64), kind="stable")
        for start in range(0, len(order), USERS_AT_ONCE):
            yield order[start : start + USERS_AT_ONCE]

    def _repeats(self, users: UserEvents, at: slice) -> RepeatState:
        """The user's repeat items after the last event."""
        items, times, sessions = users.item[at], users.time[at], users.session[at]
        bought = np.isin(users.type[at], self.repeat_codes)
        last = (int(sessions[-1]), int(times[-1])) if len(sessions) else (-1, 0)
        history = repeat_history(items[bought], times[bought], sessions[bought])
        state = history.after(*last)
        if users.counted is None:
            return replace(state, all_count=None, all_span=None)
        n = int(users.counted[at].sum())  # the first n events
        if 0 < n < len(items) and sessions[n - 1] == sessions[n]:
            first = bought[:n]
            history = repeat_history(items[:n][first], times[:n][first], sessions[:n][first])
        known = history.after(int(sessions[n - 1]) if n else -1, 0)
        all_count, all_span = np.zeros((2, len(state.item)), np.float32)
        place = np.searchsorted(state.item, known.item)  # both ascend; all known are there
        # No more than the statistics hold: what arrived late is not in them.
        all_count[place] = np.minimum(known.count, self.purchases[known.item])
        all_span[place] = known.last_time - known.first_time
        return replace(state, all_count=all_count, all_span=all_span)
