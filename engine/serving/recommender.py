"""The request path: stored or live vectors, context, exact filtered search, repeats, lists."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import time as now

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.data.clock import Clock
from engine.errors import RequestError
from engine.features import Calendar, History, UserFeatures, encode_inputs
from engine.repeats import RepeatItemStatistics, RepeatState, repeat_features, repeat_history
from engine.retrieval.exact import ExactIndex
from engine.retrieval.filters import FilterCache
from engine.retrieval.mask import pack_mask
from engine.retrieval.merge import RankedList, merge_repeats, round_robin
from engine.runtime.onnx_cpu import OnnxEncoder
from engine.store.users import UserRecord

from .explain import explain
from .request import Reply, Request
from .weights import RequestWeights

NEXT, GENERAL, REPEAT, POPULARITY, NONE = 0, 1, 2, 3, -1
_HEADS = {"next": (NEXT,), "general": (GENERAL,), "round_robin": (NEXT, GENERAL)}


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
        allowed: [N] bool, active items that pass the filter.
        signals: [S] standardised external signals.
        vectors: [2, D] h_next and h_gen, then with δ.
        delta: [D] context offset δ.
        repeat_logits: [2, m] final logits of the state's items for either vector.
    """

    request: Request
    time: int
    record: UserRecord | None
    history: History
    state: RepeatState
    live: bool
    allowed: NDArray[np.bool_]
    signals: NDArray[np.float32]
    vectors: NDArray[np.float32]
    delta: NDArray[np.float32]
    repeat_logits: NDArray[np.float32]

    @property
    def heads(self) -> tuple[int, ...]:
        """Vectors that the strategy reads."""
        return _HEADS[self.request.strategy]


class Recommender:
    """Answers requests from one bundle. One instance a process; not for several threads at once."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        manifest, items = bundle.manifest, bundle.items
        self.bundle = bundle
        self.item_ids: NDArray[np.int64] = items["item_ids"]
        self.candidates: NDArray[np.float32] = items["candidates"]
        self.weights = RequestWeights.of(bundle.request_weights)
        self._rows = items["rows"]
        self._active = items["active"]
        self._statistics = RepeatItemStatistics(
            items["rebuy_rate"], items["gap_days"], items["log_p"], items["subclass"]
        )
        self._by_popularity = np.lexsort((np.arange(len(self.item_ids)), -items["log_p"]))
        self._log_p = items["log_p"]
        self._calendar = Calendar(
            Clock(manifest.timezone),
            manifest.has_time,
            self.weights.first_day,
            self.weights.signals,
        )
        self._repeat_types = manifest.repeat_codes
        self._default_type = manifest.default_event_code
        self._window, self._hop = manifest.model["window"], manifest.model["hop"]
        self._repeats = bool(manifest.model["repeats"])
        self._filters = FilterCache(bundle.columns)
        self._threads = threads
        self.set_lambda(manifest.lambda_serve)
        self._encoder = OnnxEncoder(bundle.encode_path, threads)

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> "Recommender":
        """Opens a bundle. Raises BundleError for one that is incomplete, altered or too new."""
        return cls(Bundle.open(folder), threads)

    def set_lambda(self, value: float) -> None:
        """Serves the popularity prior b = -value · log p; the bundle's own value is the default."""
        self.bias: NDArray[np.float32] = -np.float32(value) * self._log_p
        self._index = ExactIndex(self.candidates, self.bias, self._threads)

    def recommend(self, requests: Sequence[Request]) -> list[Reply | RequestError]:
        """One outcome a request, in order; a bad request never hurts the others."""
        ids = [request.user_id for request in requests if request.user_id]
        records = dict(zip(ids, self.bundle.users.get_many(ids), strict=True)) if ids else {}
        outcomes: list[Reply | RequestError | Query] = []
        for request in requests:
            try:
                outcomes.append(self._resolve(request, records.get(request.user_id or "")))
            except RequestError as error:
                outcomes.append(error)
        queries = [outcome for outcome in outcomes if isinstance(outcome, Query)]
        self._encode([query for query in queries if query.live])
        self._add_context(queries)
        self._score_repeats(queries)
        replies = iter(self._search(queries))
        return [next(replies) if isinstance(o, Query) else o for o in outcomes]

    def _resolve(self, request: Request, record: UserRecord | None) -> Query | Reply:
        """Looks up everything that a request names; answers a request of an unknown user."""
        time = int(now()) if request.time is None else request.time
        allowed = self._active
        if request.filter is not None:
            allowed = allowed & self._filters.mask(request.filter)
        signals = self._signals(request, time)
        events, sessions, is_new = self._events(request, record, time)
        if record is None and not len(events.items):
            return self._popular(request, allowed)
        dim = self.candidates.shape[1]
        live = record is None or is_new
        if live:
            state = self._state(events, sessions)
            vectors = np.zeros((2, dim), np.float32)
        else:
            assert record is not None
            state = record.repeats
            vectors = np.stack([record.h_next, record.h_gen])
        return Query(
            request=request,
            time=time,
            record=record,
            history=events,
            state=state,
            live=live,
            allowed=allowed,
            signals=signals,
            vectors=vectors,
            delta=np.zeros(dim, np.float32),
            repeat_logits=np.zeros((2, len(state.item)), np.float32),
        )

    def _signals(self, request: Request, time: int) -> NDArray[np.float32]:
        """[S] standardised: the request's, or what the calendar knew beforehand of the day."""
        features = self.bundle.manifest.signals
        if request.context is None:
            day = self._calendar.fields(np.array([time]))["day"]
            return self._calendar.signals_on(day)[0]
        if len(request.context) != len(features):
            names = ", ".join(feature.name for feature in features) or "none"
            raise RequestError(
                f"context: expected {len(features)} signals ({names}) or none, "
                f"got {len(request.context)}"
            )
        mean = np.array([feature.mean for feature in features], np.float32)
        std = np.array([feature.std for feature in features], np.float32)
        standardised: NDArray[np.float32] = (request.context - mean) / std
        return standardised

    def _events(
        self, request: Request, record: UserRecord | None, time: int
    ) -> tuple[History, NDArray[np.int32], bool]:
        """Stored history and the request's later events: history, sessions, whether any is new."""
        items = self._indices(request.item_ids)
        types = self._types(request)
        times = request.event_times
        if times is None:
            times = np.full(len(items), time, np.int64)
        if record is None:
            events = History(items, times, types)
            return events, self._sessions(times, -1, None), len(items) > 0
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
        return events, np.concatenate([record.sessions, sessions]), True

    def _indices(self, item_ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Item indices [n] of catalogue ids; an item that was removed still counts as history."""
        at = np.searchsorted(self.item_ids, item_ids)
        known = self.item_ids[at.clip(max=len(self.item_ids) - 1)] == item_ids
        if not known.all():
            place = int(np.argmin(known))
            raise RequestError(
                f"item_ids[{place}]: expected an id of the catalogue, got {item_ids[place]}"
            )
        return at.astype(np.int32)

    def _types(self, request: Request) -> NDArray[np.int32]:
        """Event-type codes [n], the default where the request gives none."""
        if request.event_types is None:
            return np.full(len(request.item_ids), self._default_type, np.int32)
        names = self.bundle.manifest.event_types
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
        if not self._calendar.has_time:
            return (ordinal + 1 + np.arange(len(times))).astype(np.int32)
        before = [] if last is None else [last]
        days = self._calendar.clock.day(np.concatenate([np.array(before, np.int64), times]))
        opens = np.diff(days) > 0 if last is not None else np.diff(days, prepend=days[:1] - 1) > 0
        return (ordinal + np.cumsum(opens)).astype(np.int32)

    def _state(self, events: History, sessions: NDArray[np.int32]) -> RepeatState:
        """Repeat items of a whole history."""
        bought = np.isin(events.types, self._repeat_types)
        times = events.times if self._calendar.has_time else np.zeros_like(events.times)
        history = repeat_history(events.items[bought], times[bought], sessions[bought])
        if not len(sessions):
            return history.after(-1, 0)
        return history.after(int(sessions[-1]), int(times[-1]))

    def _encode(self, queries: list[Query]) -> None:
        """Fills the vectors of the live queries."""
        if not queries:
            return
        width = self.weights.n_categorical, self.weights.n_numeric
        categorical = np.zeros((len(queries), width[0]), np.int32)
        numeric = np.full((len(queries), width[1]), np.nan, np.float32)
        for row, query in enumerate(queries):
            if query.record is not None:
                categorical[row], numeric[row] = query.record.categorical, query.record.numeric
        inputs = encode_inputs(
            [query.history for query in queries],
            UserFeatures(categorical, numeric),
            self._rows,
            self._calendar,
            self._window,
            self._hop,
        )
        for query, *vectors in zip(queries, *self._encoder.encode(inputs), strict=True):
            query.vectors = np.stack(vectors)

    def _add_context(self, queries: list[Query]) -> None:
        """Adds δ(time, gap since the last event, signals) to both vectors."""
        if not queries:
            return
        times = np.array([query.time for query in queries])
        last = np.array(
            [q.history.times[-1] if len(q.history.times) else q.time for q in queries], np.int64
        )
        delta = self.weights.context(
            self._calendar.fields(times),
            self._calendar.gap_days(times, last),
            np.stack([query.signals for query in queries]),
        )
        for query, offset in zip(queries, delta, strict=True):
            query.delta = offset
            query.vectors = query.vectors + offset

    def _score_repeats(self, queries: list[Query]) -> None:
        """Final fp32 logits a h·c + b + r of every bought item, for both vectors."""
        with_items = [query for query in queries if len(query.state.item)]
        if not with_items or not self._repeats:
            return
        times = np.array([query.time for query in with_items])
        if not self._calendar.has_time:
            times = np.zeros_like(times)
        features = repeat_features([q.state for q in with_items], self._statistics, times)
        scores = self.weights.repeat_scores(features)  # [Σ m, 2]
        start = 0
        for query in with_items:
            items = query.state.item
            dot = self.candidates[items] @ query.vectors.T  # [m, 2]
            r = scores[start : start + len(items)]
            start += len(items)
            query.repeat_logits = (self.weights.scale * dot + r).T + self.bias[items]

    def _search(self, queries: list[Query]) -> list[Reply]:
        """Lists of every query: one scan for all, repeats merged, two lists interleaved."""
        if not queries:
            return []
        vectors, masks = [], []
        for query in queries:
            allowed = query.allowed
            if self._repeats or query.request.repeats == "exclude":
                allowed = allowed.copy()
                allowed[query.state.item] = False
            mask = pack_mask(allowed)
            for head in query.heads:
                vectors.append(query.vectors[head])
                masks.append(mask)
        k = max(query.request.k for query in queries)
        found = self._index.search(np.stack(vectors), k, np.stack(masks))
        replies, row = [], 0
        for query in queries:
            lists = []
            for head in query.heads:
                lists.append(self._merge(query, head, found.items[row], found.scores[row]))
                row += 1
            k_asked = query.request.k
            ranked = lists[0] if len(lists) == 1 else round_robin(lists[0], lists[1], k_asked)
            replies.append(self._reply(query, ranked))
        return replies

    def _merge(
        self, query: Query, head: int, items: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> RankedList:
        """One vector's list of k: the catalogue's answers and the bought items that qualify."""
        k, state = query.request.k, query.state
        keep = np.zeros(len(state.item), np.bool_)
        if self._repeats and query.request.repeats == "allow":
            keep = query.allowed[state.item]
        merged = merge_repeats(
            items[:k],
            scores[:k],
            state.item[keep].astype(np.int64),
            query.repeat_logits[head][keep],
            k,
        )
        source = np.where(merged.is_repeat, REPEAT, head)
        source = np.where(merged.items >= 0, source, NONE).astype(np.int32)
        return RankedList(merged.items, merged.scores, source)

    def _popular(self, request: Request, allowed: NDArray[np.bool_]) -> Reply:
        """The most bought items that qualify, for a user of whom nothing is known."""
        best = self._by_popularity[allowed[self._by_popularity]][: request.k]
        ranked = RankedList(
            np.full(request.k, -1, np.int64),
            np.full(request.k, -np.inf, np.float32),
            np.full(request.k, NONE, np.int32),
        )
        ranked.items[: len(best)] = best
        ranked.scores[: len(best)] = self._log_p[best]
        ranked.source[: len(best)] = POPULARITY
        text = explain(self, None, ranked) if request.explain else None
        return self._named(ranked, text)

    def _reply(self, query: Query, ranked: RankedList) -> Reply:
        text = explain(self, query, ranked) if query.request.explain else None
        return self._named(ranked, text)

    def _named(self, ranked: RankedList, explanation: str | None) -> Reply:
        """Item indices as catalogue ids."""
        found = ranked.items >= 0
        item_ids = np.where(found, self.item_ids[np.where(found, ranked.items, 0)], -1)
        return Reply(item_ids, ranked.scores, ranked.source, explanation)
