"""The encode graph on the CPU, by ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable, BundleError

OUTPUTS = ("h_next", "h_gen")

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(bool)": np.dtype(np.bool_),
}


class OnnxEncoder:
    """Runs `encode.onnx`: named inputs to both user vectors.

    Args:
        path: the graph.
        threads: threads of one call. None of them spins while it waits: a server's processes share
            the cores, and a spinning thread takes one from the process that has work.
    Raises:
        BackendUnavailable: onnxruntime is not installed.
        BundleError: the file is no graph, or not one with the outputs h_next and h_gen.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as failures
        except ImportError as error:
            raise BackendUnavailable(
                "runtime onnx_cpu: expected the package onnxruntime, got none; "
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
        self._inputs = {
            node.name: (_DTYPES[node.type], tuple(node.shape))
            for node in self._session.get_inputs()
        }

    def encode(
        self, inputs: Mapping[str, NDArray[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Both vectors [B, D] float32 of a batch.

        Args:
            inputs: exactly the graph's inputs, in its dtypes and shapes; a dimension that the graph
                names (batch, length) has one size in all of them.
        Raises:
            ValueError: anything else; names the input, what was expected and what came.
        """
        self._check(inputs)
        h_next, h_gen = self._session.run(OUTPUTS, dict(inputs))
        return h_next, h_gen

    def _check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        if inputs.keys() != self._inputs.keys():
            raise ValueError(
                f"encode: expected the inputs {sorted(self._inputs)}, got {sorted(inputs)}"
            )
        sizes: dict[str, int] = {}
        for name, (dtype, shape) in self._inputs.items():
            array = inputs[name]
            if array.dtype != dtype:
                raise ValueError(f"encode {name}: expected dtype {dtype}, got {array.dtype}")
            expected = [
                size if isinstance(size, int) else sizes.setdefault(size, actual)
                for size, actual in zip(shape, array.shape, strict=False)
            ]
            if len(shape) != array.ndim or list(array.shape) != expected:
                named = [sizes.get(size, size) for size in shape]
                raise ValueError(f"encode {name}: expected shape {named}, got {list(array.shape)}")
