"""Vectors of histories that no stored vector knows; what the encoder computed of a user is kept.

A window hops at fixed counts of events, so inside a window a later history of a user begins with
the earlier one, and the encoder's keys and values of the earlier events still hold: only the new
events are computed (engine/model/README.md, "Cache"). They are kept in this process alone, least
recently used out first, and what they depend on is compared each time: the model and the item
table, the user's features, the events themselves.
"""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.features import (
    Calendar,
    History,
    UserFeatures,
    encode_inputs,
    event_inputs,
    window_start,
)
from engine.runtime.append import AppendEncoder, Kept
from engine.runtime.inputs import Encoder

# How the vectors of a live request came about:
KINDS = (
    "stateless",  # no user id, or nothing is kept at all: the whole window
    "first",  # nothing was kept of this user: the whole window
    "appended",  # the new events alone
    "unchanged",  # no event is new: the vectors of last time
    "hop",  # the window began anew: the whole window
    "diverged",  # the history does not extend what is kept: the whole window
    "features",  # the user's features, the model or the items changed: the whole window
)


@dataclass
class LiveRequest:
    """Whose history it is, if that is known, and its features: [C] int32 and [M] float32."""

    user_id: str | None
    history: History
    categorical: NDArray[np.int32]
    numeric: NDArray[np.float32]


@dataclass
class _Entry:
    """What is kept of one user.

    Attributes:
        version: of everything that keys and values depend on beside the events.
        start, end: first event of the window, and the first that is not kept.
        events: up to the last one that is kept, from the one before the window on, since the
            first event's recency depends on it.
        vectors: [2, D] after the last event.
    """

    version: bytes
    start: int
    end: int
    events: History
    kept: Kept
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((2, 0), np.float32))

    def is_extended_by(self, history: History) -> bool:
        """Whether `history` begins with the events that are kept."""
        if len(history.items) < self.end:
            return False
        begin = _part(history, self.start, self.end)
        return all(
            np.array_equal(getattr(begin, name), getattr(self.events, name))
            for name in ("items", "times", "types")
        )


class LiveEncoder:
    """h_next and h_gen of live requests. Not for several threads at once.

    Args:
        encoder: of whole windows.
        append: of new events over kept ones; None keeps nothing.
        rows: [N, d_model] float32, the folded item table.
        calendar: the shop's time and signals.
        window, hop: of the model.
        max_bytes: of keys and values; users beyond are forgotten.

    Attributes:
        counts: requests by KINDS, and "evicted" users, since the start.
        bytes: of keys and values that are kept.
    """

    def __init__(
        self,
        encoder: Encoder,
        append: AppendEncoder | None,
        rows: NDArray[np.float32],
        calendar: Calendar,
        window: int,
        hop: int,
        max_bytes: int,
    ) -> None:
        self._encoder, self._append = encoder, append
        self._rows, self._calendar = rows, calendar
        self._window, self._hop, self._max_bytes = window, hop, max_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._tables = 0
        self.counts: Counter[str] = Counter(dict.fromkeys((*KINDS, "evicted"), 0))
        self.bytes = 0

    def __len__(self) -> int:
        """Users of whom something is kept."""
        return len(self._entries)

    def set_rows(self, rows: NDArray[np.float32], keep: bool = False) -> None:
        """Another item table. What was computed with the last one counts no more, unless `keep`."""
        self._rows = rows
        self._tables += not keep

    def encode(self, requests: Sequence[LiveRequest]) -> NDArray[np.float32]:
        """[B, 2, D] h_next and h_gen, in the order of the requests."""
        found: dict[int, NDArray[np.float32]] = {}
        stateless = [i for i, request in enumerate(requests) if self._is_stateless(request)]
        self.counts["stateless"] += len(stateless)
        found |= zip(stateless, self._whole([requests[i] for i in stateless]), strict=True)
        waiting = [i for i in range(len(requests)) if i not in found]
        while waiting:
            # One request a user at a time: a second one goes on where the first has ended.
            first = {requests[i].user_id: i for i in reversed(waiting)}
            turn = sorted(first.values())
            found |= zip(turn, self._kept([requests[i] for i in turn]), strict=True)
            waiting = [i for i in waiting if i not in found]
        return np.stack([found[i] for i in range(len(requests))])

    def _is_stateless(self, request: LiveRequest) -> bool:
        return self._append is None or request.user_id is None or not len(request.history.items)

    def _whole(self, requests: Sequence[LiveRequest]) -> Sequence[NDArray[np.float32]]:
        """[2, D] each, of whole windows; nothing is kept."""
        if not requests:
            return ()
        inputs = encode_inputs(
            [request.history for request in requests],
            _features(requests),
            self._rows,
            self._calendar,
            self._window,
            self._hop,
        )
        return list(np.stack(self._encoder.encode(inputs), axis=1))

    def _kept(self, requests: Sequence[LiveRequest]) -> list[NDArray[np.float32]]:
        """[2, D] each, of different users, over what is kept of them."""
        vectors: dict[int, NDArray[np.float32]] = {}
        groups: dict[tuple[bool, int], list[tuple[int, _Entry]]] = {}
        for i, request in enumerate(requests):
            kind, entry = self._find(request)
            self.counts[kind] += 1
            n_new = len(request.history.items) - entry.end
            if n_new:
                groups.setdefault((entry.kept.length == 0, n_new), []).append((i, entry))
            else:
                vectors[i] = entry.vectors
                self._keep(request, entry)
        for group in groups.values():
            chosen = [requests[i] for i, _ in group]
            self._append_events(chosen, [entry for _, entry in group])
            vectors |= {i: entry.vectors for i, entry in group}
        return [vectors[i] for i in range(len(requests))]

    def _find(self, request: LiveRequest) -> tuple[str, _Entry]:
        """How the vectors will come about, and what is kept for that; taken out of the entries."""
        assert self._append is not None
        version = b"%d" % self._tables + request.categorical.tobytes() + request.numeric.tobytes()
        count = len(request.history.items)
        start = window_start(count, self._window, self._hop)
        entry = self._entries.pop(request.user_id or "", None)
        if entry is None:
            kind, kept = "first", self._append.empty()
        else:
            self.bytes -= entry.kept.bytes
            kept = entry.kept
            if entry.version != version:
                kind = "features"
            elif not entry.is_extended_by(request.history):
                kind = "diverged"
            elif entry.start != start:
                kind = "hop"
            else:
                return ("appended" if count > entry.end else "unchanged"), entry
        kept.length = 0
        return kind, _Entry(version, start, start, _part(request.history, start, start), kept)

    def _append_events(self, requests: Sequence[LiveRequest], entries: Sequence[_Entry]) -> None:
        """Computes and keeps the events after each entry's end, the same number of each."""
        assert self._append is not None
        inputs = event_inputs(
            [request.history for request in requests],
            [entry.end for entry in entries],
            _features(requests),
            self._rows,
            self._calendar,
        )
        vectors = np.stack(self._append.append(inputs, [entry.kept for entry in entries]), axis=1)
        for request, entry, both in zip(requests, entries, vectors, strict=True):
            entry.end = len(request.history.items)
            entry.events = _part(request.history, entry.start, entry.end)
            entry.vectors = both
            self._keep(request, entry)

    def _keep(self, request: LiveRequest, entry: _Entry) -> None:
        """Puts an entry back as the last used one, and forgets the first ones beyond the limit."""
        assert request.user_id is not None
        self._entries[request.user_id] = entry
        self.bytes += entry.kept.bytes
        while self.bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= oldest.kept.bytes
            self.counts["evicted"] += 1


def _features(requests: Sequence[LiveRequest]) -> UserFeatures:
    return UserFeatures(
        np.stack([request.categorical for request in requests]),
        np.stack([request.numeric for request in requests]),
    )


def _part(history: History, start: int, end: int) -> History:
    """Copies of the events from the one before `start` to `end`."""
    place = slice(max(start - 1, 0), end)
    return History(
        history.items[place].copy(), history.times[place].copy(), history.types[place].copy()
    )
