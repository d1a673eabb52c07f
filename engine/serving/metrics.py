"""What a recommender counts, on the server's Prometheus endpoint.

Every value of a metric is a message to the server's process, so no request waits for one: a thread
reads the recommender's counts and sends those that changed.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from engine.store.users import ERRORS
from engine.store.versions import Version

from .funnel import TIMED
from .live import KINDS
from .recommender import Recommender

INTERVAL_S = 1.0


class Reading(NamedTuple):
    """One value: a family's name, help and kind ("counter" or "gauge"), labels, how to read it."""

    name: str
    text: str
    kind: str
    labels: Mapping[str, str]
    read: Callable[[], float]


def readings(recommender: Recommender) -> Iterator[Reading]:
    """All that is told of a recommender."""
    yield from _each(
        "stars_live_requests_total", "Live requests by how their vectors came about",
        KINDS, lambda kind: recommender.live.counts[kind],
    )  # fmt: skip
    yield Reading(
        "stars_cache_evicted_total", "Users whose keys and values were forgotten for others",
        "counter", {}, lambda: recommender.live.counts["evicted"],
    )  # fmt: skip
    yield Reading(
        "stars_cache_bytes", "Memory of the users' keys and values", "gauge", {},
        lambda: recommender.live.bytes,
    )  # fmt: skip
    yield from _each(
        "stars_recall_items_total", "Items of sampled exact answers, and those that were found",
        ("wanted", "found"), lambda kind: getattr(recommender.recall, kind),
    )  # fmt: skip
    yield from _each(
        "stars_filter_total", "Filters whose mask was at hand, and that were evaluated",
        ("hits", "misses"), lambda kind: getattr(recommender.filters, kind),
    )  # fmt: skip
    yield Reading(
        "stars_context_requests_total", "Requests whose context is summed", "counter", {},
        lambda: recommender.drift.n,
    )  # fmt: skip
    yield Reading(
        "stars_signal_errors_total", "Requests without the feature source's signals: it failed",
        "counter", {}, lambda: recommender.signal_errors,
    )  # fmt: skip
    for place, feature in enumerate(recommender.bundle.manifest.signals):
        for what, sums in (
            ("sums", recommender.drift.total), ("squares", recommender.drift.square),
        ):  # fmt: skip
            yield Reading(
                f"stars_context_signal_{what}",
                f"Sum of each standardised signal's {what}: 0 and 1 a request in training",
                "gauge", {"signal": feature.name}, partial(sums.item, place),
            )  # fmt: skip
    if (funnel := recommender.funnel) is not None:
        yield from _each(
            "stars_stage_seconds_total", "Time of each stage of the funnel, summed over batches",
            TIMED, lambda kind: funnel.seconds[kind],
        )  # fmt: skip
        yield from _each(
            "stars_stage_requests_total", "Requests that went through each stage",
            TIMED, lambda kind: funnel.requests[kind],
        )  # fmt: skip
    yield Reading(
        "stars_vectors_age_seconds", "Time since the last event that the stored vectors know",
        "gauge", {}, lambda: _age(recommender.users.version, "cut"),
    )  # fmt: skip
    yield Reading(
        "stars_users_age_seconds", "Time since the stored users were published", "gauge", {},
        lambda: _age(recommender.users.version, "published"),
    )  # fmt: skip
    yield Reading(
        "stars_users_published_seconds", "Unix time at which the served users were published",
        "gauge", {}, lambda: getattr(recommender.users.version, "published", float("nan")),
    )  # fmt: skip
    yield Reading("stars_users", "Stored users", "gauge", {}, lambda: len(recommender.users))
    yield from _each(
        "stars_store_errors_total", "What the store of the users could not answer",
        ERRORS, lambda kind: recommender.users.errors[kind],
    )  # fmt: skip
    yield Reading(
        "stars_index_age_seconds", "Time since the index was built", "gauge", {},
        lambda: time.time() - recommender.indexed_at,
    )  # fmt: skip
    yield Reading(
        "stars_items", "Items that may be answered", "gauge", {},
        lambda: float(recommender.catalogue.active.sum()),
    )  # fmt: skip


def _each(
    name: str, text: str, kinds: Iterable[str], read: Callable[[str], float]
) -> Iterator[Reading]:
    """A counter for each kind, the kind as its label."""
    for kind in kinds:
        yield Reading(name, text, "counter", {"kind": kind}, partial(read, kind))


def _age(version: Version | None, since: str) -> float:
    """Seconds since a moment of the version that is served; not a number before there is one."""
    return float("nan") if version is None else time.time() - getattr(version, since)


class Metrics:
    """Sends readings that changed to the server.

    Args:
        families: the class `MetricFamily` of the Python backend's module.
        labels: of every metric.
        given: what to tell.
    """

    def __init__(self, families: Any, labels: Mapping[str, str], given: Iterator[Reading]) -> None:
        kinds = {"counter": families.COUNTER, "gauge": families.GAUGE}
        made: dict[str, Any] = {}
        self._readings = []
        for each in given:
            if each.name not in made:
                made[each.name] = families(
                    name=each.name, description=each.text, kind=kinds[each.kind]
                )
            metric = made[each.name].Metric(labels={**labels, **each.labels})
            self._readings.append((each, metric))
        self._families = made  # a family ends with its last reference
        self._told = [0.0] * len(self._readings)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Tells every INTERVAL_S from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ended.set()
        self._thread.join()

    def tell(self) -> None:
        """Sends what has changed."""
        for i, (each, metric) in enumerate(self._readings):
            value = float(each.read())
            if value == self._told[i]:
                continue
            if each.kind == "counter":
                metric.increment(value - self._told[i])
            else:
                metric.set(value)
            self._told[i] = value

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_S):
            self.tell()
