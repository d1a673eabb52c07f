"""Incremental encoding: new events of users whose keys and values are kept.

A runtime's subclass runs the append graph (engine/compile/append.py); the arrays are its own, so
that what is kept stays where the runtime computes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .inputs import USER_INPUTS, Batch, GraphInput, Vectors, graph_batch

APPEND_OUTPUTS = ("h_next", "h_gen", "key", "value")
PAST_INPUTS = ("is_user", "past_key", "past_value", "past_length", "past_day")


class KeptShape(NamedTuple):
    """What is kept of a user: `capacity` rows, [USER] and a window of events."""

    layers: int
    heads: int
    head_dim: int
    capacity: int


@dataclass
class Kept:
    """One user's keys and values; `AppendEncoder.append` fills it.

    Attributes:
        key: [layers, H, d, capacity] and value: [layers, H, capacity, d], the runtime's arrays.
        day: [capacity] int32.
        length: rows that are filled: [USER], then the events.
    """

    key: Any
    value: Any
    day: NDArray[np.int32]
    length: int = 0

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return int(self.key.nbytes + self.value.nbytes + self.day.nbytes)


class AppendEncoder(ABC):
    """Encodes new events over what is kept, and keeps theirs.

    Args:
        inputs: of the graph, those that a batch holds.
        past: names of the other inputs, of PAST_INPUTS.
        shape: of what is kept of one user.
    """

    def __init__(
        self, inputs: Mapping[str, GraphInput], past: Sequence[str], shape: KeptShape
    ) -> None:
        self._inputs, self._has_day = inputs, "past_day" in past
        self.shape = shape

    def empty(self) -> Kept:
        """Room for one user, of whom nothing is kept."""
        layers, heads, width, capacity = self.shape
        return Kept(
            key=self._zeros((layers, heads, width, capacity)),
            value=self._zeros((layers, heads, capacity, width)),
            day=np.zeros(capacity, np.int32),
        )

    def append(self, batch: Batch, kept: Sequence[Kept]) -> Vectors:
        """h_next and h_gen [B, d_serve] float32 after new events, whose keys and values are kept.

        Equals `encode` of all events so far, if no window hops in between.

        Args:
            batch: the new events, as `engine.features.encode_inputs` makes them; the same number,
                at least 1, of each user.
            kept: one a user, of all something or of all nothing.
        Raises:
            ValueError: the batch is none (see `graph_batch`), users differ in how many events are
                new or in whether something is kept, or the new events do not fit.
        """
        n_users, n_events = batch["rows"].shape[:2]
        if len(kept) != n_users:
            raise ValueError(f"append: kept: expected one of {n_users} users, got {len(kept)}")
        if n_events == 0 or (batch["length"] != n_events).any():
            raise ValueError(
                f"append: length: expected {max(n_events, 1)} new events of each user, "
                f"got {batch['length'].tolist()}"
            )
        given = graph_batch(batch, self._inputs)
        lengths = np.array([each.length for each in kept], np.int32)
        is_first = bool((lengths == 0).all())
        if not is_first and (lengths == 0).any():
            raise ValueError("append: kept: expected something of all users, or nothing of all")
        n_rows = n_events + is_first
        if lengths.max(initial=0) + n_rows > self.shape.capacity:
            raise ValueError(
                f"append: kept: expected at most {self.shape.capacity} rows, "
                f"got {lengths.max()} and {n_rows} new ones"
            )
        if is_first:
            # [USER] stands before the first event, and has its day.
            for name in set(given) - set(USER_INPUTS):
                given[name] = np.concatenate([given[name][:, :1], given[name]], axis=1)
        is_user = np.zeros((n_users, n_rows), np.int32)
        is_user[:, 0] = is_first
        past = {"is_user": is_user, "past_length": lengths}
        if self._has_day:
            past["past_day"] = np.stack([k.day[: 0 if is_first else None] for k in kept])
        key, value = [k.key for k in kept], [k.value for k in kept]
        if is_first:
            key, value = [k[..., :0] for k in key], [v[..., :0, :] for v in value]
        h_next, h_gen, new_key, new_value = self._run(given | past, key, value)
        for user, each in enumerate(kept):
            rows = slice(each.length, each.length + n_rows)
            each.key[..., rows] = new_key[user]
            each.value[..., rows, :] = new_value[user]
            if self._has_day:
                each.day[rows] = given["day"][user]
            each.length += n_rows
        return h_next, h_gen

    @abstractmethod
    def _zeros(self, shape: tuple[int, ...]) -> Any:
        """An array of the runtime, in the dtype of what is kept."""

    @abstractmethod
    def _run(
        self, inputs: Mapping[str, NDArray[Any]], key: Sequence[Any], value: Sequence[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Any, Any]:
        """Runs the graph over what is kept of each user; results in the order of APPEND_OUTPUTS."""


def stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """[B, ...] of B arrays; of one without a copy."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def kept_shape(past_key: Sequence[Any], capacity: int) -> KeptShape:
    """From the graph's description of past_key, [B, layers, H, d, P].

    Raises:
        ValueError: it is no such shape.
    """
    if len(past_key) != 5 or not all(isinstance(size, int) for size in past_key[1:4]):
        raise ValueError(f"input past_key: expected [B, layers, H, d, P], got {list(past_key)}")
    layers, heads, head_dim = past_key[1:4]
    return KeptShape(layers, heads, head_dim, capacity)
