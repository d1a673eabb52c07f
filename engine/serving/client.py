"""Typed client of the front model: numpy in and out, over gRPC or HTTP."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal, Self

import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import ArrayLike, NDArray
from tritonclient.utils import InferenceServerException

from engine.errors import RequestError, ServerError

from .request import PAD, TENSORS, Repeats, Stage, Strategy

Protocol = Literal["grpc", "http"]

_MODULES: dict[str, ModuleType] = {"grpc": tritonclient.grpc, "http": tritonclient.http}
_BAD_REQUEST = ("StatusCode.INVALID_ARGUMENT", "400")
_DATATYPES = {
    "item_ids": "INT64",
    "event_types": "INT32",
    "event_times": "INT64",
    "context": "FP32",
    "candidates": "INT64",
}


@dataclass(frozen=True)
class Recommendation:
    """The answer to one row, without padding, best first.

    Args:
        item_ids: [n] int64, n <= k.
        scores: [n] float32; comparable inside one source list only.
        source: [n] int32: 0 next, 1 general, 2 repeat, 3 popularity.
        explanation: what the server says about it, where `explain` asked.
        objective_scores: [n, M] probabilities, where `objective_scores` asked; NaN for an unknown
            user, whom nobody ranks for.
    """

    item_ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    source: NDArray[np.int32]
    explanation: dict[str, Any] | None = None
    objective_scores: NDArray[np.float32] | None = None


class StarsClient:
    """A connection to a server; every request carries the same tensors, so that requests batch.
    Only `candidates` goes where there are any, since few requests have them.

    A gRPC client may be shared by threads, an HTTP client may not.

    Args:
        url: host:port, of the endpoint that the protocol names.
        model: the served model to ask.
        timeout_s: how long one request may take.
    """

    def __init__(
        self,
        url: str,
        protocol: Protocol = "grpc",
        *,
        model: str = "stars",
        timeout_s: float = 60.0,
    ) -> None:
        if protocol not in _MODULES:
            raise ValueError(f"protocol: expected grpc or http, got {protocol!r}")
        self._url = url
        self._model = model
        self._library = _MODULES[protocol]
        if protocol == "grpc":
            self._client = tritonclient.grpc.InferenceServerClient(url)
            self._limit = {"client_timeout": timeout_s}
        else:
            self._client = tritonclient.http.InferenceServerClient(url, network_timeout=timeout_s)
            self._limit = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def recommend(
        self,
        user_id: str | None = None,
        item_ids: ArrayLike = (),
        event_types: ArrayLike = (),
        event_times: ArrayLike = (),
        context: ArrayLike = (),
        candidates: ArrayLike = (),
        *,
        k: int | None = None,
        strategy: Strategy | None = None,
        repeats: Repeats | None = None,
        filter: str | None = None,
        time: int | None = None,
        explain: bool | None = None,
        place: str | None = None,
        stage: Stage | None = None,
        diversity: float | None = None,
        objective_scores: bool | None = None,
    ) -> Recommendation:
        """Recommendations for one user, one sequence of events, or both.

        Args:
            user_id: whose stored vectors and history are used.
            item_ids: [n] catalogue ids, oldest first.
            event_types: [n] integer codes, or empty.
            event_times: [n] unix seconds, or empty.
            context: [S] numbers, or empty.
            candidates: [n] catalogue ids, the only items that may be answered; empty for all.
            k, strategy, repeats, filter, time, explain, place, stage, diversity, objective_scores:
                None leaves each to the server's default.
        Raises:
            RequestError: the server refused the request; its words.
            ServerError: the server does not answer, or failed.
        """
        return self.recommend_batch(
            [user_id],
            [item_ids],
            [event_types],
            [event_times],
            [context],
            [candidates],
            k=k,
            strategy=strategy,
            repeats=repeats,
            filter=filter,
            time=time,
            explain=explain,
            place=place,
            stage=stage,
            diversity=None if diversity is None else f"{diversity:g}",
            objective_scores=objective_scores,
        )[0]

    def recommend_batch(
        self,
        user_ids: Sequence[str | None] | None = None,
        item_ids: Sequence[ArrayLike] | None = None,
        event_types: Sequence[ArrayLike] | None = None,
        event_times: Sequence[ArrayLike] | None = None,
        context: Sequence[ArrayLike] | None = None,
        candidates: Sequence[ArrayLike] | None = None,
        **options: Any,
    ) -> list[Recommendation]:
        """Recommendations for several rows in one request; arguments as in `recommend`, one a row.

        Raises:
            ValueError: no rows, or arguments of different numbers of rows.
            RequestError: the server refused the request; its words name the row.
            ServerError: the server does not answer, or failed.
        """
        sequences = {
            "item_ids": item_ids,
            "event_types": event_types,
            "event_times": event_times,
            "context": context,
            "candidates": candidates,
        }
        batch = _row_count({"user_ids": user_ids, **sequences})
        inputs = [self._users(user_ids or [None] * batch)]
        for name, rows in sequences.items():
            stack = _rectangle if name == "context" else _pad
            if name == "candidates" and not any(map(np.size, rows or ())):
                continue
            inputs.append(self._input(name, stack(rows or [()] * batch, TENSORS[name])))
        parameters = {name: value for name, value in options.items() if value is not None}
        return _split(self._infer(inputs, parameters))

    def _users(self, user_ids: Sequence[str | None]) -> Any:
        encoded = [[(user_id or "").encode()] for user_id in user_ids]
        return _filled(self._library, "user_id", "BYTES", np.array(encoded, dtype=object))

    def _input(self, name: str, values: NDArray[Any]) -> Any:
        if not values.size:
            return _empty(self._library, name, len(values))
        return _filled(self._library, name, _DATATYPES[name], values)

    def _infer(self, inputs: list[Any], parameters: dict[str, Any]) -> Callable[[str], Any]:
        try:
            result = self._client.infer(
                self._model, inputs, parameters=parameters or None, **self._limit
            )
        except InferenceServerException as error:
            if error.status() in _BAD_REQUEST:
                raise RequestError(error.message()) from None
            raise ServerError(f"{self._url}: {error}") from error
        except OSError as error:
            raise ServerError(f"{self._url}: expected an answer, got {error}") from error
        as_numpy: Callable[[str], Any] = result.as_numpy
        return as_numpy


def _filled(library: ModuleType, name: str, datatype: str, values: NDArray[Any]) -> Any:
    tensor = library.InferInput(name, values.shape, datatype)
    tensor.set_data_from_numpy(values)
    return tensor


@cache
def _empty(library: ModuleType, name: str, batch: int) -> Any:
    return _filled(library, name, _DATATYPES[name], np.empty((batch, 0), TENSORS[name]))


def _row_count(given: Mapping[str, Sequence[Any] | None]) -> int:
    """The number of rows of what is given; ValueError where it is not the same, or none."""
    counts = {name: len(rows) for name, rows in given.items() if rows is not None}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"rows: expected the same number, at least 1, in each, got {counts}")
    return next(iter(counts.values()))


def _pad(rows: Sequence[ArrayLike], dtype: np.dtype[Any]) -> NDArray[Any]:
    """[batch, longest row] of integers, padded at the end."""
    arrays = [np.asarray(row) for row in rows]
    padded = np.full((len(arrays), max(len(row) for row in arrays)), PAD, dtype)
    for target, row in zip(padded, arrays, strict=True):
        if len(row):  # an empty list has no dtype worth checking
            target[: len(row)] = row.astype(dtype, casting="same_kind")
    return padded


def _rectangle(rows: Sequence[ArrayLike], dtype: np.dtype[Any]) -> NDArray[Any]:
    """[batch, S]; rows of different lengths raise ValueError."""
    return np.array(rows, dtype=dtype).reshape(len(rows), -1)


def _split(as_numpy: Callable[[str], Any]) -> list[Recommendation]:
    """One Recommendation a row of the outputs, padding removed."""
    item_ids, scores, source = (as_numpy(name) for name in ("item_ids", "scores", "source"))
    texts, objectives = as_numpy("explanation"), as_numpy("objective_scores")
    found = (item_ids != PAD).sum(axis=1)
    return [
        Recommendation(
            item_ids[row, :n],
            scores[row, :n],
            source[row, :n],
            None if texts is None else json.loads(texts[row, 0]),
            None if objectives is None else objectives[row, :n],
        )
        for row, n in enumerate(found)
    ]
