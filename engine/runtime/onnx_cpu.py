"""The encode and append graphs on the CPU, by ONNX Runtime."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable, BundleError

from .append import APPEND_OUTPUTS, PAST_INPUTS, AppendEncoder, kept_shape, stacked
from .inputs import OUTPUTS, Batch, GraphInput, Vectors, graph_batch

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
}


class OnnxEncoder:
    """Runs `encode.onnx`, in fp32 or int8 by Q/DQ.

    Args:
        path: the graph.
        threads: threads of one call. None of them spins while it waits: a server's processes share
            the cores, and a spinning thread takes one from the process that has work.
    Raises:
        BackendUnavailable: onnxruntime is not installed.
        BundleError: the file is no graph, not one with the outputs h_next and h_gen, or has an
            input that no batch holds.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self._session = open_session(path, threads, OUTPUTS)
        try:
            self._inputs = graph_inputs(self._session.get_inputs())
        except ValueError as error:
            raise BundleError(f"{path}: {error}") from error

    def encode(self, batch: Batch) -> Vectors:
        """h_next and h_gen [B, d_serve] float32; raises ValueError as `graph_batch` does."""
        h_next, h_gen = self._session.run(OUTPUTS, graph_batch(batch, self._inputs))
        return h_next, h_gen


class OnnxAppendEncoder(AppendEncoder):
    """Runs `append.onnx`, in fp32 or int8 by Q/DQ; arguments and errors as of `OnnxEncoder`.

    Args:
        capacity: rows to keep of a user, the model's window and [USER].
    """

    def __init__(self, path: Path, capacity: int, threads: int = 1) -> None:
        self._session = open_session(path, threads, APPEND_OUTPUTS)
        nodes = {node.name: node for node in self._session.get_inputs()}
        past = [nodes.pop(name) for name in PAST_INPUTS if name in nodes]
        try:
            shapes = {node.name: node.shape for node in past}
            shape = kept_shape(shapes.get("past_key", ()), capacity)
            super().__init__(graph_inputs(nodes.values()), list(shapes), shape)
        except ValueError as error:
            raise BundleError(f"{path}: {error}") from error
        (self._dtype,) = {_DTYPES[node.type] for node in past if node.name == "past_key"}

    def _zeros(self, shape: tuple[int, ...]) -> NDArray[Any]:
        return np.zeros(shape, self._dtype)

    def _run(
        self, inputs: Mapping[str, NDArray[Any]], key: Sequence[Any], value: Sequence[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Any, Any]:
        past = {"past_key": stacked(key), "past_value": stacked(value)}
        h_next, h_gen, *new = self._session.run(APPEND_OUTPUTS, {**inputs, **past})
        return h_next, h_gen, new[0], new[1]


def open_session(path: Path, threads: int, outputs: tuple[str, ...]) -> Any:
    """A session of ONNX Runtime on a graph with just these outputs; errors as of `OnnxEncoder`."""
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as failures
    except ImportError as error:
        raise BackendUnavailable(
            "runtime onnxruntime: expected the package onnxruntime, got none; "
            "install it with `pip install onnxruntime`"
        ) from error
    try:
        session = onnxruntime.InferenceSession(
            str(path), session_options(threads), providers=["CPUExecutionProvider"]
        )
    except (
        failures.Fail,
        failures.InvalidArgument,
        failures.InvalidGraph,
        failures.InvalidProtobuf,
        failures.NoSuchFile,
        failures.NotImplemented,
    ) as error:
        raise BundleError(f"{path}: expected an ONNX graph, got {error}") from error
    found = tuple(output.name for output in session.get_outputs())
    if found != outputs:
        raise BundleError(f"{path}: expected the outputs {outputs}, got {found}")
    return session


def session_options(threads: int) -> Any:
    """Options of a session beside others; why no thread spins says `OnnxEncoder`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def graph_inputs(nodes: Iterable[Any]) -> dict[str, GraphInput]:
    """Inputs as ONNX Runtime describes them. Raises ValueError for a type that no batch holds."""
    inputs = {}
    for node in nodes:
        if node.type not in _DTYPES:
            raise ValueError(f"input {node.name}: expected {sorted(_DTYPES)}, got {node.type}")
        inputs[node.name] = GraphInput.of(node.name, _DTYPES[node.type], node.shape)
    return inputs
