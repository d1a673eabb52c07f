"""Requests of a bundle's real households, and the files from which perf_analyzer sends them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.bundle import USERS_FOLDER, Bundle
from engine.errors import DataError
from engine.store.mmap import IDS
from engine.store.users import UserRecord

REQUESTS = 500  # distinct requests of a scenario, sent round and round
EVENTS = 50
K = 10
FILTER_SHARE = 0.2  # of the items that the filter lets through, at least
NEW_EVENTS = 3
DTYPES = {"user_id": "BYTES", "item_ids": "INT64", "event_types": "INT32", "event_times": "INT64"}
Ask = Mapping[str, Any]  # user_id, item_ids, event_types, event_times, filter: of `recommend`


@dataclass(frozen=True)
class Scenario:
    """What is asked.

    Attributes:
        asks: the requests, in the order in which they are sent.
        parameters: of every request: k, and `time`, with which the answers are always the same.
    """

    name: str
    asks: tuple[Ask, ...]
    parameters: Mapping[str, int]

    @property
    def is_filtered(self) -> bool:
        """Whether any request has a filter."""
        return any("filter" in ask for ask in self.asks)


def stored(bundle: Bundle) -> Scenario:
    """Households by id alone: their stored vectors answer."""
    asks = tuple({"user_id": user.user_id} for user in _households(bundle, REQUESTS))
    return Scenario("stored", asks, _parameters(bundle))


def live(bundle: Bundle, events: int = EVENTS) -> Scenario:
    """Last events of households, without their ids: nothing is kept, each is encoded whole."""
    return Scenario("live", _sequences(bundle, events, REQUESTS), _parameters(bundle))


def filtered(bundle: Bundle) -> Scenario:
    """Stored households under one filter, whose mask the server has at hand after the first."""
    return replace(with_filter(stored(bundle), bundle), name="filtered")


def mixed(bundle: Bundle, events: int = EVENTS) -> Scenario:
    """Of ten requests four are stored households, two of them under a filter, two with new events
    (their last items again, at the request's time; a server that saw them before has the encoder's
    state), two sequences without a household."""
    sequences, text = _sequences(bundle, events, REQUESTS // 5), common_filter(bundle)
    asks: list[Ask] = []
    for n, user in enumerate(_households(bundle, REQUESTS)):
        ask: dict[str, Any] = {"user_id": user.user_id}
        if n % 5 == 1:
            ask["filter"] = text
        elif n % 5 == 2:
            again = list(dict.fromkeys(user.items[-NEW_EVENTS:].tolist()))
            ask["item_ids"] = _catalogue_ids(bundle, again)
        asks.append(sequences[n // 5 % len(sequences)] if n % 5 == 4 else ask)
    return Scenario("mixed", tuple(asks), _parameters(bundle))


def with_filter(scenario: Scenario, bundle: Bundle) -> Scenario:
    """The same requests under `common_filter`."""
    text = common_filter(bundle)
    asks = tuple({**ask, "filter": text} for ask in scenario.asks)
    return Scenario(f"{scenario.name}_filtered", asks, scenario.parameters)


SCENARIOS = ("stored", "live", "filtered", "mixed")


def make_scenario(name: str, bundle: Bundle, events: int = EVENTS) -> Scenario:
    """One of SCENARIOS; `events` is the length of its sequences.

    Raises:
        DataError: no household has as many events.
    """
    sequences = {"live": live, "mixed": mixed}
    others = {"stored": stored, "filtered": filtered}
    return sequences[name](bundle, events) if name in sequences else others[name](bundle)


def common_filter(bundle: Bundle) -> str:
    """A predicate that lets a fifth of the items through: the most frequent subclasses."""
    column = bundle.columns["subclass"]
    counts = np.bincount(column.data[column.valid], minlength=len(column.strings))
    order = np.argsort(-counts, kind="stable")
    n = 1 + int(np.searchsorted(np.cumsum(counts[order]), FILTER_SHARE * counts.sum()))
    return json.dumps({"subclass": {"in": [column.strings[code] for code in order[:n]]}})


def write_tensors(scenario: Scenario, path: Path) -> Path:
    """The file of --input-data for the served models over gRPC: tensors, empty where there is none.

    Raises:
        DataError: a request has a filter. perf_analyzer takes gRPC's parameters from its command
            line, name:value:type, and no JSON text is free of colons.
    """
    if scenario.is_filtered:
        raise DataError(f"{scenario.name}: expected no filters over gRPC, got some: ask over HTTP")
    rows = []
    for ask in scenario.asks:
        row = {name: {"content": v, "shape": [len(v)]} for name, v in _tensors(ask).items()}
        rows.append(row | {"context": {"content": [], "shape": [0]}})
    return _write(rows, path)


def write_bodies(scenario: Scenario, path: Path) -> Path:
    """The same for the served models over HTTP: JSON bodies of the inference protocol."""
    rows = []
    for ask in scenario.asks:
        inputs = [
            {"name": name, "datatype": DTYPES[name], "shape": [1, len(values)], "data": values}
            for name, values in _tensors(ask).items()
        ]
        inputs.append({"name": "context", "datatype": "FP32", "shape": [1, 0], "data": []})
        chosen = {"filter": ask["filter"]} if "filter" in ask else {}
        body = {"inputs": inputs, "parameters": {**scenario.parameters, **chosen}}
        rows.append({"payload": [body]})
    return _write(rows, path)


def write_requests(scenario: Scenario, path: Path) -> Path:
    """The same for a service that takes the keyword arguments of `recommend` as a JSON object."""
    return _write([{"payload": [{**ask, **scenario.parameters}]} for ask in scenario.asks], path)


def _tensors(ask: Ask) -> dict[str, list[Any]]:
    sequences = {name: ask.get(name, []) for name in ("item_ids", "event_types", "event_times")}
    return {"user_id": [ask.get("user_id", "")], **sequences}


def _write(rows: list[dict[str, Any]], path: Path) -> Path:
    path.write_text(json.dumps({"data": rows}), encoding="utf-8")
    return path


def household_ids(bundle: Bundle) -> list[str]:
    """Ids of all users that the bundle was exported with, ascending."""
    ids = np.load(bundle.folder / USERS_FOLDER / IDS, allow_pickle=False)
    return [user_id.decode() for user_id in ids.tolist()]


def _parameters(bundle: Bundle) -> dict[str, int]:
    return {"k": K, "time": bundle.manifest.cut}


def _households(bundle: Bundle, n: int) -> list[UserRecord]:
    """An even sample of n households; all, where there are fewer."""
    ids = household_ids(bundle)
    chosen = [ids[i] for i in np.unique(np.linspace(0, len(ids) - 1, n).round().astype(int))]
    return [record for record in bundle.users.get_many(chosen) if record is not None]


def _sequences(bundle: Bundle, events: int, n: int) -> tuple[Ask, ...]:
    """The last `events` of up to n households that have as many.

    Raises:
        DataError: no household has.
    """
    users = _households(bundle, len(bundle.users))
    long = [user for user in users if len(user.items) >= events]
    if not long:
        most = max((len(user.items) for user in users), default=0)
        raise DataError(
            f"{bundle.folder}: users: expected one of {events} events or more, got at most {most}"
        )
    return tuple(
        {
            "item_ids": _catalogue_ids(bundle, user.items[-events:].tolist()),
            "event_types": user.types[-events:].tolist(),
            "event_times": user.times[-events:].tolist(),
        }
        for user in long[:: max(1, len(long) // n)][:n]
    )


def _catalogue_ids(bundle: Bundle, items: list[int]) -> list[int]:
    ids: list[int] = bundle.items["item_ids"][items].tolist()
    return ids
