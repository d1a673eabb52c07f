"""The encode graph on the CPU, by ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import BackendUnavailable, BundleError

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
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as failures
        except ImportError as error:
            raise BackendUnavailable(
                "runtime onnxruntime: expected the package onnxruntime, got none; "
                "install it with `pip install onnxruntime`"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
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
        outputs = tuple(output.name for output in self._session.get_outputs())
        if outputs != OUTPUTS:
            raise BundleError(f"{path}: expected the outputs {OUTPUTS}, got {outputs}")
        try:
            self._inputs = graph_inputs(self._session)
        except ValueError as error:
            raise BundleError(f"{path}: {error}") from error

    def encode(self, batch: Batch) -> Vectors:
        """h_next and h_gen [B, d_serve] float32; raises ValueError as `graph_batch` does."""
        h_next, h_gen = self._session.run(OUTPUTS, graph_batch(batch, self._inputs))
        return h_next, h_gen


def graph_inputs(session: Any) -> dict[str, GraphInput]:
    """The inputs of an ONNX Runtime session. Raises ValueError for a type that no batch holds."""
    inputs = {}
    for node in session.get_inputs():
        if node.type not in _DTYPES:
            raise ValueError(f"input {node.name}: expected {sorted(_DTYPES)}, got {node.type}")
        inputs[node.name] = GraphInput.of(node.name, _DTYPES[node.type], node.shape)
    return inputs
