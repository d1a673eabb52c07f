"""What a recommender counts, on the server's Prometheus endpoint.

Every value of a metric is a message to the server's process, so no request waits for one: a thread
reads the recommender's counts and sends those that changed.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from engine.store.users import ERRORS
from engine.store.versions import Version

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
    live = recommender.live
    for kind in KINDS:
        yield Reading(
            "stars_live_requests_total", "Live requests by how their vectors came about",
            "counter", {"kind": kind}, lambda kind=kind: live.counts[kind],  # type: ignore[misc]
        )  # fmt: skip
    yield Reading(
        "stars_cache_evicted_total", "Users whose keys and values were forgotten for others",
        "counter", {}, lambda: live.counts["evicted"],
    )  # fmt: skip
    yield Reading(
        "stars_cache_bytes", "Memory of the users' keys and values", "gauge", {},
        lambda: live.bytes,
    )  # fmt: skip
    for kind in ("wanted", "found"):
        yield Reading(
            "stars_recall_items_total", "Items of sampled exact answers, and those that were found",
            "counter", {"kind": kind},
            lambda kind=kind: getattr(recommender.recall, kind),  # type: ignore[misc]
        )  # fmt: skip
    for kind in ("hits", "misses"):
        yield Reading(
            "stars_filter_total", "Filters whose mask was at hand, and that were evaluated",
            "counter", {"kind": kind},
            lambda kind=kind: getattr(recommender.filters, kind),  # type: ignore[misc]
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
        for name, what in (("total", "sums"), ("square", "squares")):
            yield Reading(
                f"stars_context_signal_{what}",
                f"Sum of each standardised signal's {what}: 0 and 1 a request in training",
                "gauge", {"signal": feature.name},
                lambda i=place, name=name: float(getattr(recommender.drift, name)[i]),  # type: ignore[misc]
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
    for kind in ERRORS:
        yield Reading(
            "stars_store_errors_total", "What the store of the users could not answer",
            "counter", {"kind": kind},
            lambda kind=kind: recommender.users.errors[kind],  # type: ignore[misc]
        )  # fmt: skip
    yield Reading(
        "stars_index_age_seconds", "Time since the index was built", "gauge", {},
        lambda: time.time() - recommender.indexed_at,
    )  # fmt: skip
    yield Reading(
        "stars_items", "Items that may be answered", "gauge", {},
        lambda: float(recommender.catalogue.active.sum()),
    )  # fmt: skip


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
