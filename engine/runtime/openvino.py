"""The encode graph on the CPU, by OpenVINO: the fastest that this project found there.

int8 by Q/DQ runs on VNNI or AMX, what is not quantised in bf16 where the processor has it. A graph
compiled for one shape beats the same graph with dynamic dimensions by a fifth (batch 1, 200
events): no shape is worked out again, and more is fused. So shapes that matter are given, and all
others take the dynamic one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import BackendUnavailable, BundleError

from .inputs import OUTPUTS, Batch, GraphInput, Vectors, graph_batch
from .sidecar import Bucket

DEFAULT_FIXED = (Bucket(1, 200),)


class OpenVinoEncoder:
    """Runs a graph of any precision on the CPU.

    Args:
        path: the graph.
        threads: threads of one call.
        fixed: shapes to compile for themselves; a batch of just this shape runs there.
        exact: compute in fp32 what the graph has in fp32; else in bf16 where the processor can.
    Raises:
        BackendUnavailable: openvino is not installed.
        BundleError: the file is no graph, not one with the outputs h_next and h_gen, or has an
            input that no batch holds.
    """

    def __init__(
        self,
        path: Path,
        threads: int = 1,
        fixed: Sequence[Bucket] = DEFAULT_FIXED,
        exact: bool = False,
    ) -> None:
        try:
            import openvino
        except ImportError as error:
            raise BackendUnavailable(
                "runtime openvino: expected the package openvino, got none; "
                "install it with `pip install openvino`"
            ) from error
        core = openvino.Core()
        options: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # Server processes share the cores: a pinned thread would wait for its neighbour.
            "ENABLE_CPU_PINNING": False,
        }
        if exact:
            options["INFERENCE_PRECISION_HINT"] = "f32"
        try:
            model = _read(openvino, core, path)
            self._inputs = {node.any_name: _graph_input(node) for node in model.inputs}
            outputs = tuple(node.any_name for node in model.outputs)
            if outputs != OUTPUTS:
                raise BundleError(f"{path}: expected the outputs {OUTPUTS}, got {outputs}")
            self._dynamic = core.compile_model(model, "CPU", options).create_infer_request()
            self._fixed = {}
            for bucket in fixed:
                one = model.clone()
                one.reshape({node.any_name: _fixed_shape(node, bucket) for node in one.inputs})
                compiled = core.compile_model(one, "CPU", options)
                self._fixed[bucket] = compiled.create_infer_request()
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"{path}: expected a graph that openvino runs, got {error}") from (
                error
            )

    def encode(self, batch: Batch) -> Vectors:
        """h_next and h_gen [B, d_serve] float32; raises ValueError as `graph_batch` does."""
        inputs = graph_batch(batch, self._inputs)
        shape = Bucket(*inputs["rows"].shape[:2])
        request = self._fixed.get(shape, self._dynamic)
        answer = request.infer(inputs, share_inputs=True)
        h_next, h_gen = (np.array(answer[name]) for name in OUTPUTS)
        return h_next, h_gen


def _read(openvino: Any, core: Any, path: Path) -> Any:
    """The model, with inputs in bf16 taken as fp32: numpy has no such type."""
    model = core.read_model(str(path))
    steps = openvino.preprocess.PrePostProcessor(model)
    for node in model.inputs:
        if node.get_element_type() == openvino.Type.bf16:
            steps.input(node.any_name).tensor().set_element_type(openvino.Type.f32)
    return steps.build()


def _graph_input(node: Any) -> GraphInput:
    shape = [size.get_length() if size.is_static else None for size in node.get_partial_shape()]
    name = node.any_name
    return GraphInput.of(name, np.dtype(node.get_element_type().to_dtype()), shape)


def _fixed_shape(node: Any, bucket: Bucket) -> list[int]:
    """The bucket's sizes where the graph's are dynamic: batch first, then length."""
    return [
        size.get_length() if size.is_static else bucket[axis]
        for axis, size in enumerate(node.get_partial_shape())
    ]
