"""A request looked up in the bundle: user, events, filter and context, or why not."""

from dataclasses import dataclass, replace
from time import time as now
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.catalogue.catalogue import Catalogue
from engine.errors import RequestError, SignalError
from engine.features import History
from engine.repeats import FEATURES, RepeatState, repeat_history
from engine.retrieval.filters import FilterCache
from engine.retrieval.mask import only, pack_mask
from engine.store.users import UserRecord

from .request import Request
from .signals import SignalSource
from .weights import RequestWeights

NEXT, GENERAL = 0, 1
_HEADS = {"next": (NEXT,), "general": (GENERAL,), "round_robin": (NEXT, GENERAL)}
NOW_S = 3600  # a feature source speaks of requests at most this far from now
_QUARTER_S = 900  # time zones change their fields at quarters of an hour, since 1972 all of them
_SIGNAL_STDS_MAX = 10_000  # beyond it scores could leave float32
_NO_FEATURES = np.zeros((0, len(FEATURES)), np.float32)


class Moment(NamedTuple):
    """A time as the calendar has it, see `Calendar.fields`, and its signals [S]."""

    hour: int
    weekday: int
    week: int
    day: int
    signals: NDArray[np.float32]


@dataclass
class Query:
    """One request on its way through the stages.

    Attributes:
        request: as it came.
        time: unix seconds of the request.
        record: the stored user, if there is one.
        history: events that decide the vectors and the context's gap; the stored ones and the new.
        state: repeat items, as of the last event.
        live: the vectors must be computed, since there are events that no stored vector knows.
        moment: the time as the calendar has it.
        allowed: mask [ceil(N / 32)] of the active items that pass the filter.
        signals: [S] standardised external signals.
        vectors: [2, D] h_next and h_gen, then with δ.
        delta: [D] context offset δ.
        repeat_logits: [2, m] final logits of the state's items for either vector.
        repeat_features: [m, F] what those were made of.
        categorical, numeric: [C] codes and [M] numbers of the user, 0 and NaN where unknown.
    """

    request: Request
    time: int
    record: UserRecord | None
    history: History
    state: RepeatState
    live: bool
    moment: Moment
    allowed: NDArray[np.int32]
    signals: NDArray[np.float32]
    vectors: NDArray[np.float32]
    delta: NDArray[np.float32]
    repeat_logits: NDArray[np.float32]
    repeat_features: NDArray[np.float32]
    categorical: NDArray[np.int32]
    numeric: NDArray[np.float32]

    @property
    def is_unknown(self) -> bool:
        """Nothing is known of the user: neither a record nor an event."""
        return self.record is None and not len(self.history.items)

    @property
    def heads(self) -> tuple[int, ...]:
        """Vectors that the strategy reads."""
        return _HEADS[self.request.strategy]


class Resolver:
    """Turns requests into queries by one bundle and the items as they are now."""

    def __init__(
        self,
        bundle: Bundle,
        catalogue: Catalogue,
        weights: RequestWeights,
        source: SignalSource | None = None,
    ) -> None:
        """source: of external signals; None leaves them to calendar and request."""
        self._source, self.signal_errors = source, 0
        self._manifest = manifest = bundle.manifest
        self._catalogue = catalogue
        self._active = pack_mask(catalogue.active)
        self.filters = FilterCache(catalogue.columns)
        self.calendar = weights.calendar(manifest)
        self._unknown = (
            np.zeros(weights.n_categorical, np.int32),
            np.full(weights.n_numeric, np.nan, np.float32),
        )
        self._quarter, self._last = -1, self._moment_at(0)

    def set_catalogue(self, catalogue: Catalogue) -> None:
        """Later queries are of these items."""
        self._catalogue = catalogue
        self._active = pack_mask(catalogue.active)
        self.filters.replace(catalogue.columns)

    def resolve(self, request: Request, record: UserRecord | None) -> Query:
        """Looks up everything that a request names; vectors and logits are still to come.

        Raises:
            RequestError: the request names something that the bundle does not hold.
        """
        time = int(now()) if request.time is None else request.time
        moment = self._moment(time)
        allowed = self._active
        if request.filter is not None:
            allowed = pack_mask(self._catalogue.active & self.filters.mask(request.filter))
        if request.candidates is not None:
            allowed = only(allowed, self._indices("candidates", request.candidates))
        signals = self._signals(request, time, moment.signals)
        events, sessions, is_new = self._events(request, record, time)
        if record is None or is_new:
            live, state = True, self._state(events, sessions, record)
            vectors = np.zeros((2, self._catalogue.candidates.shape[1]), np.float32)
        else:
            live, state = False, record.repeats
            vectors = np.stack([record.h_next, record.h_gen])
        features = self._unknown if record is None else (record.categorical, record.numeric)
        return Query(
            request=request,
            time=time,
            record=record,
            history=events,
            state=state,
            live=live,
            moment=moment,
            allowed=allowed,
            signals=signals,
            vectors=vectors,
            delta=np.zeros(vectors.shape[1], np.float32),
            repeat_logits=np.zeros((2, len(state.item)), np.float32),
            repeat_features=_NO_FEATURES,
            categorical=features[0],
            numeric=features[1],
        )

    def _moment(self, time: int) -> Moment:
        """The calendar's moment; most requests are of the same quarter of an hour."""
        quarter = time // _QUARTER_S
        if quarter != self._quarter:
            self._quarter, self._last = quarter, self._moment_at(time)
        return self._last

    def _moment_at(self, time: int) -> Moment:
        fields = self.calendar.fields(np.array(time))
        hour, weekday, week, day = (int(fields[name]) for name in Moment._fields[:4])
        return Moment(hour, weekday, week, day, self.calendar.signals_on(fields["day"]))

    def _signals(
        self, request: Request, time: int, known: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[S] standardised: the request's, or what calendar and source know."""
        if request.context is None:
            return self._known_signals(request.place, time, known)
        features = self._manifest.signals
        if len(request.context) != len(features):
            names = ", ".join(feature.name for feature in features) or "none"
            raise RequestError(
                f"context: expected {len(features)} signals ({names}) or none, "
                f"got {len(request.context)}"
            )
        mean = np.array([feature.mean for feature in features])
        std = np.array([feature.std for feature in features])
        standardised: NDArray[np.float32] = ((request.context - mean) / std).astype(np.float32)
        far = np.flatnonzero(np.abs(standardised) > _SIGNAL_STDS_MAX)
        if len(far):
            name, value = features[far[0]].name, request.context[far[0]]
            raise RequestError(
                f"context[{far[0]}] ({name}): expected a value within {_SIGNAL_STDS_MAX:,} "
                f"standard deviations of the mean {mean[far[0]]:.4g}, got {value:.4g}"
            )
        return standardised

    def _known_signals(
        self, place: str, time: int, known: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """[S] standardised: what the calendar knew beforehand, and the source's at this hour."""
        if self._source is None or abs(time - now()) > NOW_S:
            return known
        signals = known.copy()
        try:
            given = self._source.at(place)
            for i, feature in enumerate(self._manifest.signals):
                if feature.name in given:
                    value = (given[feature.name] - feature.mean) / feature.std
                    if abs(value) > _SIGNAL_STDS_MAX:
                        raise SignalError(
                            f"signals: {feature.name}: {given[feature.name]} is far off"
                        )
                    signals[i] = value
        except SignalError:
            # An answer without what is new is better than none; the metrics tell of it.
            self.signal_errors += 1
            return known
        return signals

    def _events(
        self, request: Request, record: UserRecord | None, time: int
    ) -> tuple[History, NDArray[np.int32], bool]:
        """Stored history and the request's later events: history, sessions, whether any is new."""
        if record is not None and not len(request.item_ids):
            return History(record.items, record.times, record.types), record.sessions, False
        items = self._indices("item_ids", request.item_ids)
        types = self._types(request)
        times = request.event_times
        if times is None:
            times = np.full(len(items), time, np.int64)
        if record is None:
            sessions = self._sessions(times, -1, None)
            kept = _first_in_session(items, types, sessions)
            return History(items[kept], times[kept], types[kept]), sessions[kept], len(items) > 0
        stored = History(record.items, record.times, record.types)
        last = int(record.times[-1]) if len(record.times) else np.iinfo(np.int64).min
        new = times > last
        if not new.any():
            return stored, record.sessions, False
        ordinal = int(record.sessions[-1]) if len(record.sessions) else -1
        sessions = self._sessions(times[new], ordinal, last if len(record.times) else None)
        events = History(
            np.concatenate([stored.items, items[new]]),
            np.concatenate([stored.times, times[new]]),
            np.concatenate([stored.types, types[new]]),
        )
        sessions = np.concatenate([record.sessions, sessions])
        kept = _first_in_session(events.items, events.types, sessions)
        events = History(events.items[kept], events.times[kept], events.types[kept])
        return events, sessions[kept], True

    def _indices(self, tensor: str, item_ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Item indices [n] of a tensor's catalogue ids; an item that was removed is still one."""
        at = self._catalogue.places(item_ids)
        if (at < 0).any():
            place = int(np.argmax(at < 0))
            raise RequestError(
                f"{tensor}[{place}]: expected an id of the catalogue, got {item_ids[place]}"
            )
        return at.astype(np.int32)

    def _types(self, request: Request) -> NDArray[np.int32]:
        """Event-type codes [n], the default where the request gives none."""
        if request.event_types is None:
            return np.full(len(request.item_ids), self._manifest.default_event_code, np.int32)
        names = self._manifest.event_types
        bad = np.flatnonzero((request.event_types < 0) | (request.event_types >= len(names)))
        if len(bad):
            codes = ", ".join(f"{code} {name}" for code, name in enumerate(names))
            raise RequestError(
                f"event_types[{bad[0]}]: expected one of {codes}, got {request.event_types[bad[0]]}"
            )
        return request.event_types

    def _sessions(
        self, times: NDArray[np.int64], ordinal: int, last: int | None
    ) -> NDArray[np.int32]:
        """Session ordinals [n] of events that follow session `ordinal`, which ended at `last`."""
        if not self.calendar.has_time:
            return (ordinal + 1 + np.arange(len(times))).astype(np.int32)
        before = [] if last is None else [last]
        days = self.calendar.clock.day(np.concatenate([np.array(before, np.int64), times]))
        opens = np.diff(days) > 0 if last is not None else np.diff(days, prepend=days[:1] - 1) > 0
        return (ordinal + np.cumsum(opens)).astype(np.int32)

    def _state(
        self, events: History, sessions: NDArray[np.int32], record: UserRecord | None
    ) -> RepeatState:
        """Repeat items of a whole history, of which the statistics know the stored part."""
        bought = np.isin(events.types, self._manifest.repeat_codes)
        times = events.times if self.calendar.has_time else np.zeros_like(events.times)
        history = repeat_history(events.items[bought], times[bought], sessions[bought])
        last = (int(sessions[-1]), int(times[-1])) if len(sessions) else (-1, 0)
        state = history.after(*last)
        all_count, all_span = np.zeros((2, len(state.item)), np.float32)
        if record is not None:
            stored = record.repeats
            place = np.searchsorted(state.item, stored.item)  # both ascend; all stored are there
            span = stored.last_time - stored.first_time
            all_count[place] = stored.count if stored.all_count is None else stored.all_count
            all_span[place] = span if stored.all_span is None else stored.all_span
        return replace(state, all_count=all_count, all_span=all_span)


def _first_in_session(
    items: NDArray[np.int32], types: NDArray[np.int32], sessions: NDArray[np.int32]
) -> NDArray[np.int64]:
    """Places of the first of equal (session, item, type) events: a dataset holds no others."""
    width = np.int64(items.max(initial=0)) + 1, np.int64(types.max(initial=0)) + 1
    _, first = np.unique((sessions * width[0] + items) * width[1] + types, return_index=True)
    return np.sort(first)
