"""What every runtime takes and gives: the names, and a batch in the types of a graph.

A batch is what `engine.features.encode_inputs` makes: all of INPUTS, integers and float32. A graph
reads those that its shop has, in its own types: int32, and `rows` in the graph's precision.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

INPUTS = (
    "rows",
    "event_type",
    "hour",
    "weekday",
    "week",
    "day",
    "recency",
    "signals",
    "length",
    "user_categorical",
    "user_numeric",
    "user_known",
)
FLOATS = ("rows", "signals", "user_numeric", "user_known")
WIDE = (*FLOATS, "user_categorical")
USER_INPUTS = ("length", "user_categorical", "user_numeric", "user_known")
OUTPUTS = ("h_next", "h_gen")

Batch = Mapping[str, NDArray[Any]]
Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]


class Encoder(Protocol):
    """Any runtime: a batch of windows to both vectors of each user."""

    def encode(self, batch: Batch) -> Vectors:
        """h_next and h_gen [B, d_serve] float32; see `graph_batch` for what raises ValueError."""
        ...


class GraphInput(NamedTuple):
    """An input of a graph: its dtype, and its last dimension where that is the width of a row."""

    dtype: np.dtype[Any]
    width: int | None

    @classmethod
    def of(cls, name: str, dtype: np.dtype[Any], shape: Sequence[Any]) -> "GraphInput":
        """From a runtime's description, in which a dynamic dimension is no integer.

        Raises:
            ValueError: no batch holds an input of this name, or its width is dynamic.
        """
        if name not in INPUTS:
            raise ValueError(f"input {name}: expected one of {list(INPUTS)}")
        if name not in WIDE:
            return cls(dtype, None)
        if not shape or not isinstance(shape[-1], int):
            raise ValueError(f"input {name}: expected a width, got {list(shape)}")
        return cls(dtype, shape[-1])


def graph_batch(batch: Batch, graph: Mapping[str, GraphInput]) -> dict[str, NDArray[Any]]:
    """The inputs that a graph reads, in its types.

    Args:
        batch: exactly INPUTS.
        graph: its inputs by name.
    Raises:
        ValueError: other names, a dtype of the other kind, shapes that do not fit each other or
            the graph, or an input that holds something and that the graph does not read; names the
            input, what was expected and what came.
    """
    if batch.keys() != set(INPUTS):
        raise ValueError(f"encode: expected the inputs {sorted(INPUTS)}, got {sorted(batch)}")
    size = batch["rows"].shape[:2]
    for name, array in batch.items():
        kinds, words = ("f", "floats") if name in FLOATS else ("iu", "integers")
        if array.dtype.kind not in kinds:
            raise ValueError(f"encode {name}: expected {words}, got {array.dtype}")
        expected: list[Any] = [*(size[:1] if name in USER_INPUTS else size)]
        if name in WIDE:
            # A shop without signals has them with width 0, and its graph does without.
            expected.append(graph[name].width if name in graph else 0)
        if list(array.shape) != expected:
            raise ValueError(f"encode {name}: expected shape {expected}, got {list(array.shape)}")
    return {name: np.ascontiguousarray(batch[name], want.dtype) for name, want in graph.items()}
