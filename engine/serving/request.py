"""One request of the front model, parsed and checked for everything that needs no catalogue."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from engine.errors import RequestError, StarsError

K_MAX = 500
EVENTS_MAX = 10_000
CANDIDATES_MAX = 10_000
USER_ID_BYTES_MAX = 1_024
CONTEXT_MAX = 1e9  # far beyond any signal, and no score can leave float32 by it
TIME_MAX_S = 4_102_444_800  # the year 2100; milliseconds sent for seconds land far beyond it
CLOCK_SKEW_S = 60  # how far a client's clock may run ahead of ours when it sends no `time`
PLACE_MAX = 128
PAD = -1

_Error = TypeVar("_Error", bound=StarsError)
Strategy = Literal["next", "general", "round_robin"]
Repeats = Literal["allow", "exclude"]
Stage = Literal["retrieve", "rank", "page"]

TENSORS: dict[str, np.dtype[Any]] = {
    "user_id": np.dtype(object),
    "item_ids": np.dtype(np.int64),
    "event_types": np.dtype(np.int32),
    "event_times": np.dtype(np.int64),
    "context": np.dtype(np.float32),
    "candidates": np.dtype(np.int64),
}
STRATEGIES = ("next", "general", "round_robin")
REPEATS = ("allow", "exclude")
STAGES = ("retrieve", "rank", "page")
DIVERSITY = 0.3
SOURCES = ("next", "general", "repeat", "popularity")  # names of the codes of `source`
PARAMETERS = (
    "k", "strategy", "repeats", "filter", "time", "explain", "place",
    "stage", "diversity", "objective_scores",
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """The parameters of one request, the same for all its rows; `time` None means now."""

    k: int = 10
    strategy: Strategy = "round_robin"
    repeats: Repeats = "allow"
    filter: str | None = None
    time: int | None = None
    explain: bool = False
    place: str = ""
    stage: Stage = "retrieve"
    diversity: float | str | None = None
    objective_scores: bool = False


@dataclass(frozen=True)
class Request:
    """One row: who asks, the events of the request, and the options.

    Args:
        user_id: None where the row names nobody.
        item_ids: [n] int64 catalogue ids, oldest first, padding removed; not yet looked up.
        event_types: [n] int32 codes, or None for the default type.
        event_times: [n] int64 unix seconds, not decreasing, or None for the request's time.
        context: [S] float32, at most CONTEXT_MAX in magnitude, or None; S is yet to be checked.
        k, strategy, repeats, filter, time, explain, place, stage, objective_scores: as in Options;
            the filter is raw JSON text.
        diversity: of a page, from 0 (the order of the scores) to 1.
        candidates: [n] int64 catalogue ids, the only items that may be answered; None for all.
    """

    user_id: str | None
    item_ids: NDArray[np.int64]
    event_types: NDArray[np.int32] | None
    event_times: NDArray[np.int64] | None
    context: NDArray[np.float32] | None
    k: int
    strategy: Strategy
    repeats: Repeats
    filter: str | None
    time: int | None
    explain: bool
    place: str = ""
    stage: Stage = "retrieve"
    diversity: float = DIVERSITY
    objective_scores: bool = False
    candidates: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Reply:
    """The answer to one row, padded where fewer than k items qualify.

    Args:
        item_ids: [k] int64, -1 pads.
        scores: [k] float32, -inf pads.
        source: [k] int32: 0 next, 1 general, 2 repeat, 3 popularity, -1 pads.
        explanation: JSON text where the request asked for it.
        objective_scores: [k, M] float32 probabilities where the request asked for them, NaN pads
            and where nobody ranked.
    """

    item_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    source: NDArray[np.int32]
    explanation: str | None = None
    objective_scores: NDArray[np.float32] | None = None


def parse(tensors: Mapping[str, NDArray[Any]], parameters: str, now_s: int) -> list[Request]:
    """The rows of one request.

    Args:
        tensors: any of TENSORS, each [B, width] of its dtype; user_id holds bytes, [B, 1].
        parameters: JSON object of the request parameters, "" for none.
        now_s: unix seconds; bounds the event times of a request without `time`.
    Raises:
        RequestError: the first rule that is broken, with the row where there are several.
    """
    options = parse_options(parameters)
    rows = _batch_size(tensors)
    last_s = now_s + CLOCK_SKEW_S if options.time is None else options.time
    requests = []
    for row in range(rows):
        try:
            requests.append(_parse_row(tensors, row, options, last_s))
        except RequestError as error:
            raise at_row(error, row, rows) from None
    return requests


def at_row(error: _Error, row: int, rows: int) -> _Error:
    """The error with the row's number in front, unless the request has only one row."""
    return error if rows == 1 else type(error)(f"row {row}: {error}")


def parse_options(parameters: str) -> Options:
    """Options from the JSON object of request parameters; unknown names are refused."""
    values = json.loads(parameters) if parameters else {}
    for name in values:
        if name not in PARAMETERS:
            raise RequestError(f"{name}: expected a parameter of {_list(PARAMETERS)}, got {name!r}")
    options = Options(**values)
    if type(options.k) is not int or not 1 <= options.k <= K_MAX:
        raise RequestError(f"k: expected an integer from 1 to {K_MAX}, got {options.k!r}")
    if options.strategy not in STRATEGIES:
        raise RequestError(f"strategy: expected {_list(STRATEGIES)}, got {options.strategy!r}")
    if options.repeats not in REPEATS:
        raise RequestError(f"repeats: expected {_list(REPEATS)}, got {options.repeats!r}")
    if type(options.explain) is not bool:
        raise RequestError(f"explain: expected true or false, got {options.explain!r}")
    if type(options.place) is not str or len(options.place) > PLACE_MAX:
        raise RequestError(
            f"place: expected a string of at most {PLACE_MAX} characters, got {options.place!r:.80}"
        )
    _check_stage(options)
    if options.filter is not None and type(options.filter) is not str:
        raise RequestError(f"filter: expected a string of JSON, got {options.filter!r}")
    if options.time is not None and not _is_time(options.time):
        raise RequestError(
            f"time: expected unix seconds from 0 to {TIME_MAX_S}, got {options.time!r}"
        )
    return options


def _check_stage(options: Options) -> None:
    """Raises where the stages' parameters are none, or are of another stage."""
    stage, diversity = options.stage, options.diversity
    if stage not in STAGES:
        raise RequestError(f"stage: expected {_list(STAGES)}, got {stage!r}")
    if diversity is not None and stage != "page":
        raise RequestError(f"diversity: expected stage page, got stage {stage!r}")
    if diversity is not None and not 0 <= _number(diversity) <= 1:
        raise RequestError(f"diversity: expected a number from 0 to 1, got {diversity!r}")
    if type(options.objective_scores) is not bool:
        raise RequestError(
            f"objective_scores: expected true or false, got {options.objective_scores!r}"
        )
    if options.objective_scores and stage == "retrieve":
        raise RequestError("objective_scores: expected stage rank or page, got stage 'retrieve'")


def _number(value: Any) -> float:
    """A number or the text of one, since not every client can send a fraction; NaN for others."""
    try:
        return float(value) if type(value) in (int, float, str) else math.nan
    except ValueError:
        return math.nan


def _is_time(value: Any) -> bool:
    return type(value) is int and 0 <= value <= TIME_MAX_S


def _batch_size(tensors: Mapping[str, NDArray[Any]]) -> int:
    """The number of rows that all tensors share, after a check of names, dtypes and ranks."""
    rows: int | None = None
    for name, tensor in tensors.items():
        if name not in TENSORS:
            raise RequestError(f"{name}: expected a tensor of {_list(TENSORS)}, got {name!r}")
        if tensor.dtype != TENSORS[name]:
            raise RequestError(f"{name}: expected dtype {TENSORS[name]}, got {tensor.dtype}")
        if tensor.ndim != 2 or (name == "user_id" and tensor.shape[1] != 1):
            width = "1" if name == "user_id" else "length"
            raise RequestError(f"{name}: expected shape [batch, {width}], got {list(tensor.shape)}")
        if rows is not None and tensor.shape[0] != rows:
            raise RequestError(f"{name}: expected {rows} rows, got {tensor.shape[0]}")
        rows = tensor.shape[0]
    if not rows:
        raise RequestError("user_id: expected a user or events, got neither")
    return rows


def _parse_row(
    tensors: Mapping[str, NDArray[Any]], row: int, options: Options, last_s: int
) -> Request:
    user_id = _user_id(tensors, row)
    item_ids = _sequence(tensors, "item_ids", row)
    if item_ids is None:
        item_ids = np.empty(0, np.int64)
    if user_id is None and not len(item_ids):
        raise RequestError("user_id: expected a user or events, got neither")
    if len(item_ids) > EVENTS_MAX:
        raise RequestError(f"item_ids: expected at most {EVENTS_MAX} events, got {len(item_ids)}")
    event_types = _sequence(tensors, "event_types", row, len(item_ids))
    event_times = _sequence(tensors, "event_times", row, len(item_ids))
    if event_times is not None:
        _check_times(event_times, last_s)
    return Request(
        user_id=user_id,
        item_ids=item_ids,
        event_types=cast("NDArray[np.int32] | None", event_types),
        event_times=event_times,
        context=_context(tensors, row),
        k=options.k,
        strategy=options.strategy,
        repeats=options.repeats,
        filter=options.filter,
        time=options.time,
        explain=options.explain,
        place=options.place,
        stage=options.stage,
        diversity=DIVERSITY if options.diversity is None else float(options.diversity),
        objective_scores=options.objective_scores,
        candidates=_candidates(tensors, row),
    )


def _candidates(tensors: Mapping[str, NDArray[Any]], row: int) -> NDArray[np.int64] | None:
    candidates = _sequence(tensors, "candidates", row)
    if candidates is not None and len(candidates) > CANDIDATES_MAX:
        raise RequestError(
            f"candidates: expected at most {CANDIDATES_MAX} items, got {len(candidates)}"
        )
    return candidates


def _user_id(tensors: Mapping[str, NDArray[Any]], row: int) -> str | None:
    if "user_id" not in tensors:
        return None
    raw: bytes = tensors["user_id"][row, 0]
    if len(raw) > USER_ID_BYTES_MAX:
        raise RequestError(f"user_id: expected at most {USER_ID_BYTES_MAX} bytes, got {len(raw)}")
    try:
        user_id = raw.decode()
    except UnicodeDecodeError:
        raise RequestError(f"user_id: expected UTF-8 text, got {raw[:40]!r}") from None
    if "\0" in user_id:
        raise RequestError(f"user_id: expected text without NUL, got {user_id[:40]!r}")
    return user_id or None


def _sequence(
    tensors: Mapping[str, NDArray[Any]], name: str, row: int, length: int | None = None
) -> NDArray[Any] | None:
    """One row without its padding; None where it is empty. `length` is what item_ids has."""
    if name not in tensors or not tensors[name].shape[1]:
        return None
    values = tensors[name][row]
    real = values != PAD
    n = int(np.count_nonzero(real))
    if n < len(values):
        if not real[:n].all():
            raise RequestError(
                f"{name}[{np.argmin(real)}]: expected {PAD} only as padding at the end, "
                f"got {PAD} before a value"
            )
        values = values[:n]
    if n and values.min() < 0:
        place = np.argmax(values < 0)
        raise RequestError(f"{name}[{place}]: expected 0 or more, got {values[place]}")
    if length is not None and n not in (0, length):
        raise RequestError(f"{name}: expected as many as item_ids ({length}) or none, got {n}")
    return values if n else None


def _check_times(times: NDArray[np.int64], last_s: int) -> None:
    """Raises unless unix seconds `times` [n >= 1] do not decrease and end by `last_s`."""
    steps = times[1:] < times[:-1]
    if steps.any():
        place = np.argmax(steps) + 1
        raise RequestError(
            f"event_times[{place}]: expected a time not before the one before it "
            f"({times[place - 1]}), got {times[place]}"
        )
    if times[-1] > last_s:
        raise RequestError(
            f"event_times[{len(times) - 1}]: expected unix seconds no later than the request's "
            f"time ({last_s}), got {times[-1]}"
        )


def _context(tensors: Mapping[str, NDArray[Any]], row: int) -> NDArray[np.float32] | None:
    if "context" not in tensors or not tensors["context"].shape[1]:
        return None
    context: NDArray[np.float32] = tensors["context"][row]
    usable = np.abs(context) <= CONTEXT_MAX  # False for NaN
    if not usable.all():
        place = np.argmin(usable)
        raise RequestError(
            f"context[{place}]: expected a number of at most {CONTEXT_MAX:g} in magnitude, "
            f"got {context[place]}"
        )
    return context


def _list(names: Any) -> str:
    return ", ".join(names)
