"""Candidates with labels: what a recommender would have retrieved for later sessions."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.data.dataset import Dataset
from engine.errors import ConfigError, StarsError
from engine.manifest import Manifest
from engine.retrieval.merge import RankedList
from engine.serving.query import Query
from engine.serving.recommender import Recommender
from engine.serving.request import Request

from .inputs import Inputs, ItemSide

_AT_ONCE = 32
REPEAT = "repeat"


class Session(NamedTuple):
    """A session after the cut, from event `start` to before `stop` of the dataset; the user's
    events from `since` on came after the cut."""

    user: int
    since: int
    start: int
    stop: int
    time: int


@dataclass(frozen=True)
class Collected:
    """R requests in order of time, each with up to N candidates; the rest of a row is zeros.

    Attributes:
        vectors, codes, profile, subclass, features: of `Inputs`.
        items: [R, N] int64 places in the catalogue.
        size: [R] int64 candidates of each.
        labels: [R, N, M] bool.
        times: [R] int64 unix seconds.
    """

    vectors: NDArray[np.float32]
    codes: NDArray[np.int64]
    profile: NDArray[np.float32]
    items: NDArray[np.int64]
    subclass: NDArray[np.int64]
    features: NDArray[np.float32]
    size: NDArray[np.int64]
    labels: NDArray[np.bool_]
    times: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.times)

    def at(self, rows: Any) -> "Collected":
        """Some of the requests: a slice or places."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @property
    def inside(self) -> NDArray[np.bool_]:
        """[R, N] which candidates there are."""
        return np.arange(self.items.shape[1]) < self.size[:, None]

    def inputs(self, candidates: NDArray[np.float32]) -> Inputs:
        """What the ranker reads, up to the longest list, with the vectors of a catalogue's items
        [N, D]."""
        n = int(self.size.max(initial=0))
        items = candidates[self.items[:, :n]]
        items[~self.inside[:, :n]] = 0
        return Inputs(
            vectors=self.vectors,
            codes=self.codes,
            profile=self.profile,
            items=items,
            subclass=np.ascontiguousarray(self.subclass[:, :n]),
            features=np.ascontiguousarray(self.features[:, :n]),
        )


def objectives_of(
    manifest: Manifest, outcomes: list[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Names of what may follow an impression, and of each that cannot happen alone its parent.

    The session's event types, what comes of an event, and buying again what was bought before.

    Raises:
        ConfigError: two of the same name.
    """
    bought = manifest.repeat_types[0]
    of_bought = [*outcomes, *([REPEAT] if manifest.model["repeats"] else [])]
    names = (*manifest.event_types, *of_bought)
    if len(set(names)) < len(names):
        raise ConfigError(f"objectives: expected different names, got {', '.join(names)}")
    return names, dict.fromkeys(of_bought, bought)


def sessions(dataset: Dataset, cut: int, end: int) -> list[Session]:
    """Sessions that start in [cut, end), unix seconds, of users with events before, by time."""
    found = []
    for user in range(len(dataset.user_ids)):
        first, last = dataset.event_offsets[user : user + 2].tolist()
        times = dataset.event_time[first:last]
        since = first + int(np.searchsorted(times, cut))
        begins = first + np.flatnonzero(np.diff(dataset.event_session[first:last], prepend=-1))
        ends = np.append(begins[1:], last)
        for start, stop in zip(begins.tolist(), ends.tolist(), strict=True):
            time = int(dataset.event_time[start])
            if start > first and cut <= time < end:
                found.append(Session(user, min(since, start), start, stop, time))
    return sorted(found, key=lambda session: (session.time, session.user))


def collect(
    recommender: Recommender,
    dataset: Dataset,
    cut: int,
    end: int,
    candidates: int,
    at_most: int,
) -> Collected:
    """The candidates of sessions in [cut, end), as the recommender would retrieve them.

    Args:
        recommender: of a bundle whose model and users saw nothing after the cut.
        dataset: that the bundle was made of.
        cut, end: unix seconds.
        candidates: for each request.
        at_most: how many sessions; of more, as many are taken at equal steps.
    Raises:
        StarsError: there is no session to learn from, or a request has no answer.
    """
    every = sessions(dataset, cut, end)
    kept = np.linspace(0, len(every) - 1, min(at_most, len(every))).astype(int)
    asked = [every[place] for place in kept.tolist()]
    parts = [
        part
        for start in range(0, len(asked), _AT_ONCE)
        for part in _some(recommender, dataset, asked[start : start + _AT_ONCE], candidates)
    ]
    if not parts:
        raise StarsError(
            f"ranker: expected a session in [{cut}, {end}) of a user with events before, got none"
        )
    return Collected(
        **{f.name: np.stack([part[f.name] for part in parts]) for f in fields(Collected)}
    )


def _some(
    recommender: Recommender, dataset: Dataset, asked: list[Session], n: int
) -> Iterator[dict[str, Any]]:
    """One row of every array of `Collected` for each session that has candidates."""
    retrieved = recommender.candidates([_request(dataset, session) for session in asked], n)
    side = ItemSide(recommender.catalogue, recommender.bias, recommender.calendar)
    inputs = side.inputs(
        [query for query, _ in retrieved], [_places(found) for _, found in retrieved]
    )
    for row, (session, (query, found)) in enumerate(zip(asked, retrieved, strict=True)):
        places = _places(found)
        labels = _labels(recommender.bundle.manifest, dataset, session, query, places)
        if not len(places):
            continue
        made = {name: value[row] for name, value in inputs._asdict().items() if name != "items"}
        for name in ("subclass", "features"):
            made[name] = _padded(made[name], n)
        yield made | {
            "items": _padded(places, n), "size": np.int64(len(places)),
            "labels": _padded(labels, n), "times": np.int64(session.time),
        }  # fmt: skip


def _places(found: RankedList) -> NDArray[np.int64]:
    return found.items[found.items >= 0]


def _padded(rows: NDArray[Any], n: int) -> NDArray[Any]:
    """Zeros after the last row, up to n."""
    padded = np.zeros((n, *rows.shape[1:]), rows.dtype)
    kept = min(n, len(rows))
    padded[:kept] = rows[:kept]
    return padded


def _request(dataset: Dataset, session: Session) -> Request:
    """What the session's user would have asked at its start."""
    new = slice(session.since, session.start)
    return Request(
        user_id=dataset.user_ids[session.user].decode(),
        item_ids=dataset.item_ids[dataset.event_item[new]],
        event_types=dataset.event_type[new],
        event_times=dataset.event_time[new],
        context=None,
        k=1,
        strategy="round_robin",
        repeats="allow",
        filter=None,
        time=session.time,
        explain=False,
    )


def _labels(
    manifest: Manifest,
    dataset: Dataset,
    session: Session,
    query: Query,
    places: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """[n, M] of the candidates, by `objectives_of`."""
    at = slice(session.start, session.stop)
    item, kind, came = dataset.event_item[at], dataset.event_type[at], dataset.event_outcome[at]
    bought = np.isin(kind, manifest.repeat_codes)
    positives = [item[kind == code] for code in range(len(manifest.event_types))]
    positives += [item[bought & came[:, outcome]] for outcome in range(came.shape[1])]
    if manifest.model["repeats"]:
        positives.append(item[bought & np.isin(item, query.state.item)])
    return np.stack([np.isin(places, of_kind) for of_kind in positives], axis=1)
