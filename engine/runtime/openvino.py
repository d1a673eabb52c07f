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
from numpy.typing import NDArray

from engine.errors import BackendUnavailable, BundleError

from .inputs import OUTPUTS, USER_INPUTS, Batch, GraphInput, Vectors, graph_batch
from .sidecar import Bucket

DEFAULT_FIXED = (Bucket(1, 200),)
_SAME = 0.99  # cosine; int8 and bf16 round alike in both forms, but not bit for bit


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
            input that no batch holds; or a fixed shape gives other answers than the dynamic one.
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
                self._compare(path, bucket)
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"{path}: expected a graph that openvino runs, got {error}") from (
                error
            )

    def _compare(self, path: Path, bucket: Bucket) -> None:
        """Holds a fixed shape to the dynamic one, on made-up rows.

        OpenVINO 2026.4 computes attention wrongly in bf16 where a fixed shape has as many queries
        as heads, without a word; so no fixed shape is taken on trust.
        """
        probe = _probe(self._inputs, bucket)
        answers = [_run(request, probe) for request in (self._dynamic, self._fixed[bucket])]
        for name, right, fixed in zip(OUTPUTS, *answers, strict=True):
            lengths = np.linalg.norm(right, axis=1) * np.linalg.norm(fixed, axis=1)
            cosine = float(((right * fixed).sum(axis=1) / lengths).min(initial=1))
            if not cosine >= _SAME:
                raise BundleError(
                    f"{path}: fixed shape {tuple(bucket)}: expected {name} of the dynamic graph, "
                    f"got cosine {cosine:.3f}: leave this shape out of `fixed`"
                )

    def encode(self, batch: Batch) -> Vectors:
        """h_next and h_gen [B, d_serve] float32; raises ValueError as `graph_batch` does."""
        inputs = graph_batch(batch, self._inputs)
        shape = Bucket(*inputs["rows"].shape[:2])
        return _run(self._fixed.get(shape, self._dynamic), inputs)


def _run(request: Any, inputs: dict[str, NDArray[Any]]) -> Vectors:
    answer = request.infer(inputs, share_inputs=True)
    # Copied: the request gives out its own memory, which the next call overwrites.
    h_next, h_gen = (np.array(answer[name]) for name in OUTPUTS)
    return h_next, h_gen


def _probe(inputs: dict[str, GraphInput], bucket: Bucket) -> dict[str, NDArray[Any]]:
    """Full windows of random rows; every code is 0."""
    rng = np.random.default_rng(0)
    made = {}
    for name, given in inputs.items():
        shape = (bucket.batch,) if name in USER_INPUTS else tuple(bucket)
        shape = shape if given.width is None else (*shape, given.width)
        made[name] = np.zeros(shape, given.dtype)
    made["rows"][:] = rng.standard_normal(made["rows"].shape)
    made["length"][:] = bucket.length
    return made


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
