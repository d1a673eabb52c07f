"""The request path: stored or live vectors, context, exact filtered search, repeats, lists."""

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import compress
from pathlib import Path
from time import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.catalogue.catalogue import Catalogue
from engine.catalogue.changes import ChangeLog
from engine.errors import ConfigError, RequestError, StoreError
from engine.repeats import RepeatState, repeat_features
from engine.retrieval.choose import build as build_index
from engine.retrieval.choose import choose as choose_index
from engine.retrieval.filters import FilterCache
from engine.retrieval.index import TopK
from engine.retrieval.mask import are_allowed, without
from engine.retrieval.merge import Bought, RankedList, ranked
from engine.retrieval.recall import NO_COUNTS, RecallCounts, SampledRecall
from engine.runtime.inputs import Encoder
from engine.runtime.registry import choose, open_append, open_graph
from engine.store.address import open_users
from engine.store.codec import decode, encode
from engine.store.users import UserRecord

from .discovery import CANDIDATES, Discovery
from .drift import Drift
from .explain import REPEAT, explain
from .funnel import Funnel, Ranked
from .live import LiveEncoder, LiveRequest
from .options import DEFAULTS, Options
from .query import Query, Resolver
from .request import SOURCES, Reply, Request, Stage
from .signals import open_signals
from .weights import RequestWeights

POPULARITY = SOURCES.index("popularity")
STORE_DOWN = ("error", "popularity")


class Recommender:
    """Answers requests from one bundle. One instance a process; not for several threads at once.

    Args:
        bundle: opened.
        options: threads, runtimes, memory.
        encoder: of live vectors; None runs the bundle's graph in this process.
    Raises:
        ConfigError: an option that there is not.
        BackendUnavailable, BundleError: see the runtime.
        StoreError: the store of the users answers, but with none of this model.
        SignalError: the feature source holds no signals.

    Attributes:
        users: the store of the users.
        chosen: what runs the bundle's graph and what searches, and why, a sentence each.
        live: the encoder of live requests, with its counts.
        catalogue: the items as they are now.
        drift: of the context signals.
        indexed_at: unix seconds at which the index was built.
        calendar: of the shop.
        funnel: the stages after retrieval; None where the bundle has no ranker.
        discovery: orders never-bought items.
    """

    def __init__(
        self, bundle: Bundle, options: Options = DEFAULTS, encoder: Encoder | None = None
    ) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        if options.store_down not in STORE_DOWN:
            raise ConfigError(
                f"store_down: expected {' or '.join(STORE_DOWN)}, got {options.store_down!r}"
            )
        self.users = open_users(options.users, bundle)
        self._changes = ChangeLog.of(bundle)
        self._stamp = self._changes.stamp()
        self.catalogue = Catalogue.current(bundle)
        self.weights = RequestWeights.of(bundle.request_weights)
        names = [signal.name for signal in manifest.signals]
        source = open_signals(options.signals, names) if options.signals else None
        self._resolver = Resolver(bundle, self.catalogue, self.weights, source)
        self.calendar = self._resolver.calendar
        self._repeats = bool(manifest.model["repeats"])
        self._promotions = bundle.promotions
        self._options = options
        n_items, dim = self.catalogue.candidates.shape
        self._search_by = choose_index(options.index, n_items, dim)
        self.chosen = [f"searches by {self._search_by.backend}: {self._search_by.reason}"]
        self.drift = Drift(len(manifest.signals))
        self._lambda = np.float32(manifest.lambda_serve)
        self.funnel = Funnel.of(bundle, self.calendar, options.threads)
        self._index_items(NO_COUNTS)
        window, hop = manifest.model["window"], manifest.model["hop"]
        append = None
        if encoder is None:
            run_by = choose(options.runtime, manifest.model)
            self.chosen.append(f"encodes by {run_by.runtime}-{run_by.precision}: {run_by.reason}")
            graphs = bundle.graphs(run_by.precision)
            encoder = open_graph(run_by, graphs.encode, window, options.threads)
            if options.cache_mib and graphs.append is not None:
                append = open_append(run_by, graphs.append, window, options.threads)
        max_bytes = options.cache_mib << 20
        self.live = LiveEncoder(
            encoder, append, self.catalogue.rows, self.calendar, window, hop, max_bytes
        )

    @classmethod
    def load(cls, folder: Path, *options: Any, **named: Any) -> "Recommender":
        """Opens a bundle; BundleError says why one is incomplete, altered or too new."""
        return cls(Bundle.open(folder), *options, **named)

    def set_lambda(self, value: float) -> None:
        """Serves the popularity prior b = -value · log p; the bundle's own value is the default."""
        self._lambda = np.float32(value)
        self._index_items(self.recall)

    def update_items(self) -> bool:
        """Takes up what changed of the items since it last looked, and returns whether any did.

        Raises:
            BundleError: the changes are unreadable, or of another bundle; the items stay.
        """
        stamp = self._changes.stamp()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        before = self.catalogue
        self.catalogue = Catalogue.current(self.bundle)
        self._resolver.set_catalogue(self.catalogue)
        n = min(len(before), len(self.catalogue))
        rows = self.catalogue.rows
        same = rows is before.rows or np.array_equal(before.rows[:n], rows[:n])
        self.live.set_rows(rows, keep=same)
        if len(before) != len(self.catalogue) or not same:
            self._index_items(self.recall)
        return True

    def _index_items(self, recall: RecallCounts) -> None:
        """Builds the index of the items as they are; its recall is counted on from `recall`."""
        self.bias: NDArray[np.float32] = -self._lambda * self.catalogue.log_p
        candidates, threads = self.catalogue.candidates, self._options.threads
        index = build_index(self._search_by, candidates, self.bias, threads)
        self._index = SampledRecall(index, self._options.recall_share, counts=recall)
        if self.funnel is not None:
            self.funnel.set_items(self.catalogue, self.bias)
        self.discovery = Discovery(
            self.catalogue, self.bias, self._promotions, self.calendar.has_time
        )
        self.indexed_at = time()

    @property
    def recall(self) -> RecallCounts:
        """Of the sampled searches since the start."""
        return self._index.counts

    @property
    def signal_errors(self) -> int:
        """Requests that went without the feature source's signals, since it failed."""
        return self._resolver.signal_errors

    @property
    def filters(self) -> FilterCache:
        """Masks of the filters that requests repeat."""
        return self._resolver.filters

    def recommend(self, requests: Sequence[Request]) -> list[Reply | RequestError | StoreError]:
        """One outcome a request, in order; a bad request never hurts the others.

        While the store of the users does not answer, events alone are a request's history.
        """
        outcomes = self._resolve(requests)
        queries = [o for o in outcomes if isinstance(o, Query) and not o.is_unknown]
        replies = iter(self._answer(queries))
        return [
            (self._popular(o) if o.is_unknown else next(replies)) if isinstance(o, Query) else o
            for o in outcomes
        ]

    def candidates(self, requests: Sequence[Request], n: int) -> list[tuple[Query, RankedList]]:
        """What the stages after retrieval are given: each request's query and its n best items.

        For training a ranker on what this recommender would retrieve; unknown users are left out.

        Raises:
            RequestError, StoreError: of the first request that has no answer.
        """
        queries = []
        for outcome in self._resolve(requests):
            if not isinstance(outcome, Query):
                raise outcome
            if not outcome.is_unknown:
                queries.append(outcome)
        self._vectors(queries)
        return list(zip(queries, self._retrieve(queries, [n] * len(queries)), strict=True))

    def _resolve(self, requests: Sequence[Request]) -> list[Query | RequestError | StoreError]:
        """Each request looked up, or why it cannot be answered."""
        records, failure = self._look_up(requests)
        outcomes: list[Query | RequestError | StoreError] = []
        for request in requests:
            if failure is not None and request.user_id:
                if self._options.store_down == "error" and not len(request.item_ids):
                    outcomes.append(failure)
                    continue
                request = replace(request, user_id=None)
            try:
                self._check_stage(request)
                outcomes.append(self._resolver.resolve(request, records.get(request.user_id or "")))
            except RequestError as error:
                outcomes.append(error)
        return outcomes

    def _check_stage(self, request: Request) -> None:
        """Raises RequestError where the bundle has no such stage."""
        if request.stage != "retrieve" and self.funnel is None:
            raise RequestError(
                f"stage: expected retrieve, since the bundle has no ranker (stars rank train), "
                f"got {request.stage!r}"
            )

    def warm_up(self, live: bool = True) -> None:
        """Answers a stored user and one with events alone, before anybody asks.

        What is compiled, loaded or first touched by a request is then at hand. Nothing of it is
        counted.

        Args:
            live: False where the encoder is not in this process, and cannot be asked yet.
        """
        item, one = np.zeros(1, np.int32), np.ones(1, np.float32)
        time = np.zeros(1, np.int64)
        nowhere = np.zeros(self.catalogue.candidates.shape[1], np.float32)
        record = UserRecord(
            user_id="",
            h_next=nowhere,
            h_gen=nowhere,
            categorical=np.zeros(self.weights.n_categorical, np.int32),
            numeric=np.zeros(self.weights.n_numeric, np.float32),
            items=item,
            times=time,
            types=item,
            sessions=item,
            repeats=RepeatState(item, one, time, time, item, np.ones((1, 3), np.float32), 1, 0),
        )
        stored = decode("", encode(record))  # its arrays are as those of every store
        ids = self.catalogue.item_ids
        asked: list[tuple[UserRecord | None, NDArray[np.int64]]] = [(stored, ids[:0])]
        if live:
            asked.append((None, ids[:1]))
        stage: Stage = "retrieve" if self.funnel is None else "page"
        for known, events in asked:
            request = Request(
                None, events, None, None, None, 1, "round_robin", "allow", None, None, False,
                stage=stage,
            )  # fmt: skip
            self._answer([self._resolver.resolve(request, known)])
        self.drift = Drift(len(self.bundle.manifest.signals))
        self.live.counts = Counter(dict.fromkeys(self.live.counts, 0))
        self._index.counts = NO_COUNTS
        if self.funnel is not None:
            self.funnel.reset()

    def _answer(self, queries: list[Query]) -> list[Reply]:
        """A reply to each query: vectors, retrieval, and the stages that it asks for."""
        funnel = self.funnel
        with nullcontext() if funnel is None else funnel.timed("retrieve", len(queries)):
            self._vectors(queries)
            found = self._retrieve(queries, [self._wanted(query.request) for query in queries])
        if funnel is None:
            return [self._reply(*each) for each in zip(queries, found, strict=True)]
        further = [q.request.stage != "retrieve" for q in queries]
        ranked = iter(funnel(list(compress(queries, further)), list(compress(found, further))))
        return [
            self._reply(query, one, next(ranked) if goes_on else None)
            for query, one, goes_on in zip(queries, found, further, strict=True)
        ]

    def _wanted(self, request: Request) -> int:
        """How many items are retrieved for a request."""
        if request.stage == "retrieve" or self.funnel is None:
            return request.k
        return max(request.k, self.funnel.candidates)

    def _vectors(self, queries: list[Query]) -> None:
        """Fills both vectors, the context in them, and the logits of bought items."""
        self._encode([query for query in queries if query.live])
        self._add_context(queries)
        self._score_repeats(queries)

    def _look_up(
        self, requests: Sequence[Request]
    ) -> tuple[dict[str, UserRecord | None], StoreError | None]:
        """Stored users by id, all of one version; or why there are none."""
        ids = [request.user_id for request in requests if request.user_id]
        if not ids:
            return {}, None
        try:
            found = dict(zip(ids, self.users.get_many(ids), strict=True))
        except StoreError as error:
            return {}, error
        for user_id, record in found.items():
            if record is not None and record.items.max(initial=0) >= len(self.catalogue):
                self.users.errors["record"] += 1
                found[user_id] = None
        return found, None

    def _encode(self, queries: list[Query]) -> None:
        """Fills the vectors of the live queries."""
        if not queries:
            return
        requests = [
            LiveRequest(q.request.user_id or None, q.history, q.categorical, q.numeric)
            for q in queries
        ]
        for query, vectors in zip(queries, self.live.encode(requests), strict=True):
            query.vectors = vectors

    def _add_context(self, queries: list[Query]) -> None:
        """Adds δ(time, gap since the last event, signals) to both vectors."""
        if not queries:
            return
        moments = np.array([query.moment[:3] for query in queries])
        times = np.array([query.time for query in queries])
        last = np.array([q.history.times[-1] if len(q.history.times) else q.time for q in queries])
        gap_days = self.calendar.gap_days(times, last)
        signals = np.array([query.signals for query in queries])
        delta = self.weights.context(moments, gap_days, signals)
        self.drift.add(signals)
        for query, offset in zip(queries, delta, strict=True):
            query.delta = offset
            query.vectors = query.vectors + offset

    def _score_repeats(self, queries: list[Query]) -> None:
        """Final fp32 logits a h·c + b + r of every bought item, for both vectors."""
        with_items = [query for query in queries if len(query.state.item)]
        if not with_items or not self._repeats:
            return
        times = np.array([query.time for query in with_items])
        if not self.calendar.has_time:
            times = np.zeros_like(times)
        states = [query.state for query in with_items]
        beside = self._beside(with_items)
        features = repeat_features(states, self.catalogue.statistics, times, beside)
        scores = self.weights.repeat_scores(features)
        start = 0
        for query in with_items:
            items = query.state.item
            rows = slice(start, start + len(items))
            query.repeat_features = features[rows]
            query.repeat_logits = self.weights.repeat_logits(
                scores[rows],
                items,
                query.vectors,
                self.catalogue.candidates,
                self.bias,
            )
            start += len(items)

    def _beside(self, queries: list[Query]) -> NDArray[np.float32]:
        """What is known of the queries' bought items on their days: sales, promotions."""
        items = np.concatenate([query.state.item for query in queries])
        sold: NDArray[np.float32] = self.catalogue.sold[items]
        if self._promotions is None:
            return sold
        days = np.repeat(
            [query.moment.day for query in queries], [len(query.state.item) for query in queries]
        )
        return np.concatenate([sold, self._promotions.at(items, days)], axis=1)

    def _retrieve(self, queries: list[Query], wanted: list[int]) -> list[RankedList]:
        """The best items of every query, so many: one scan for all, repeats merged, two lists
        interleaved."""
        if not queries:
            return []
        found = self._search(queries, max(wanted))
        lists, row = [], 0
        for query, k in zip(queries, wanted, strict=True):
            rows = slice(row, row + len(query.heads))
            row = rows.stop
            bought = Bought(query.state.item, query.repeat_logits, query.allowed)
            if not self._repeats or query.request.repeats == "exclude":
                bought = Bought(bought.items[:0], bought.logits[:, :0], bought.allowed)
            of_query = TopK(found.scores[rows], found.items[rows])
            lists.append(ranked(of_query, query.heads, bought, k, REPEAT))
        return lists

    def _search(self, queries: list[Query], k: int) -> TopK:
        """The k best items that are not merged in afterwards, a row a vector of each query."""
        asking, vectors, masks = [], [], []
        for query in queries:
            allowed = query.allowed
            if self._repeats or query.request.repeats == "exclude":
                allowed = without(allowed, query.state.item)
            for head in query.heads:
                asking.append((query, head))
                vectors.append(query.vectors[head])
                masks.append(allowed)
        every_vector, every_mask = np.array(vectors), np.array(masks)
        again = np.array([q.request.repeats == "exclude" for q, _ in asking])
        if not (self.weights.discovers and again.any()):
            return self._index.search(every_vector, k, every_mask)
        found = TopK.empty(len(asking), k)
        for rows in (np.flatnonzero(~again), np.flatnonzero(again)):
            if not len(rows):
                continue
            discovers = bool(again[rows[0]])
            n = max(k, CANDIDATES) if discovers else k
            best = self._index.search(every_vector[rows], n, every_mask[rows])
            if not discovers:
                found.scores[rows], found.items[rows] = best
                continue
            for row, nearest in zip(rows.tolist(), best.items, strict=True):
                query, head = asking[row]
                found.scores[row], found.items[row] = self.discovery.best(
                    query, head, nearest, self.weights.discovery[head], k
                )
        return found

    def _popular(self, query: Query) -> Reply:
        """The most bought items that qualify, for a user of whom nothing is known."""
        k = query.request.k
        popular = self.catalogue.by_popularity
        best = popular[are_allowed(query.allowed, popular)][:k]
        answer = RankedList.empty(k)
        answer.items[: len(best)] = best
        answer.scores[: len(best)] = self.catalogue.log_p[best]
        answer.source[: len(best)] = POPULARITY
        return self._reply(query, answer)

    def _reply(self, query: Query, retrieved: RankedList, ranked: Ranked | None = None) -> Reply:
        """Item indices as catalogue ids, with what else was asked for."""
        answer = retrieved if ranked is None else ranked.answer
        text = explain(self, query, retrieved, ranked) if query.request.explain else None
        found = answer.items >= 0
        item_ids = np.where(found, self.catalogue.item_ids[np.where(found, answer.items, 0)], -1)
        objectives = None
        if query.request.objective_scores and self.funnel is not None:
            nobody = np.full((len(item_ids), len(self.funnel.objectives)), np.nan, np.float32)
            objectives = nobody if ranked is None else ranked.objectives
        return Reply(item_ids, answer.scores, answer.source, text, objectives)
