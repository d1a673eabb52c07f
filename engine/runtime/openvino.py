"""The encode graph on the CPU, by OpenVINO: the fastest that this project found there.

int8 by Q/DQ runs on VNNI or AMX, what is not quantised in bf16 where the processor has it. A graph
compiled for one shape beats the same graph with dynamic dimensions by a fifth (batch 1, 200
events): no shape is worked out again, and more is fused. So shapes that matter are given, and all
others take the dynamic one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable, BundleError

from .append import APPEND_OUTPUTS, PAST_INPUTS, AppendEncoder, kept_shape, stacked
from .inputs import OUTPUTS, USER_INPUTS, Batch, GraphInput, Vectors, graph_batch
from .sidecar import Bucket

DEFAULT_FIXED = (Bucket(1, 200),)
# OpenVINO 2026.4 counts a look-up's answers in fp32: where a thread begins past 2^24 of them, its
# last ones are left as the memory was. Larger batches are cut.
_LOOK_UP = 1 << 24
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
        openvino, core = _core()
        options = _options(threads, exact)
        try:
            model = _read(openvino, core, path)
            self._inputs = {node.any_name: _graph_input(node) for node in model.inputs}
            outputs = tuple(node.any_name for node in model.outputs)
            if outputs != OUTPUTS:
                raise BundleError(f"{path}: expected the outputs {OUTPUTS}, got {outputs}")
            self._tables = _day_tables(model)
            self._dynamic = core.compile_model(model, "CPU", options).create_infer_request()
            self._fixed = {}
            for bucket in fixed:
                one = model.clone()
                one.reshape({node.any_name: _fixed_shape(node, bucket) for node in one.inputs})
                compiled = core.compile_model(one, "CPU", options)
                self._fixed[bucket] = compiled.create_infer_request()
                probe = _probe(self._inputs, bucket)
                dynamic, alone = (_run(r, probe) for r in (self._dynamic, self._fixed[bucket]))
                _compare(path, bucket, dynamic, alone)
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"{path}: expected a graph that openvino runs, got {error}") from (
                error
            )

    def encode(self, batch: Batch) -> Vectors:
        """h_next and h_gen [B, d_serve] float32; raises ValueError as `graph_batch` does."""
        inputs = graph_batch(batch, self._inputs)
        shape = Bucket(*inputs["rows"].shape[:2])
        states = shape.length + 2  # [USER], the events and the read-out
        most = _users_at_once(self._tables, states, states)
        if shape.batch <= most:
            return _run(self._fixed.get(shape, self._dynamic), inputs)
        parts = [
            _run(self._dynamic, {name: x[start : start + most] for name, x in inputs.items()})
            for start in range(0, shape.batch, most)
        ]
        h_next, h_gen = (np.concatenate(each) for each in zip(*parts, strict=True))
        return h_next, h_gen


class OpenVinoAppendEncoder(AppendEncoder):
    """Runs the append graph; arguments and errors as of `OpenVinoEncoder`.

    What is kept lies in bf16 where the processor computes so: half the memory, and nothing to
    convert in each call. One new event of one user has a graph of its own, compiled for its shape.

    Args:
        capacity: rows to keep of a user, the model's window and [USER].
    """

    def __init__(self, path: Path, capacity: int, threads: int = 1, exact: bool = False) -> None:
        openvino, core = _core()
        options = _options(threads, exact)
        half = self._half = not exact and "BF16" in core.get_property(
            "CPU", "OPTIMIZATION_CAPABILITIES"
        )
        # numpy has no bf16; its bits are only copied here.
        self._dtype = np.dtype(np.uint16 if half else np.float32)
        kind = self._kind = openvino.Type.bf16 if half else openvino.Type.f32
        self._tensor = openvino.Tensor
        kept = {"past_key": kind, "past_value": kind}
        try:
            model = _read(openvino, core, path, kept, {"key": kind, "value": kind})
            outputs = tuple(node.any_name for node in model.outputs)
            if outputs != APPEND_OUTPUTS:
                raise BundleError(f"{path}: expected the outputs {APPEND_OUTPUTS}, got {outputs}")
            nodes = {node.any_name: node for node in model.inputs}
            past = [name for name in PAST_INPUTS if name in nodes]
            sizes = _sizes(nodes["past_key"]) if "past_key" in nodes else []
            given = {name: _graph_input(n) for name, n in nodes.items() if name not in past}
            self._names = [name for name in nodes if name not in kept]
            super().__init__(given, past, kept_shape(sizes, capacity))
            self._tables = _day_tables(model)
            self._dynamic = core.compile_model(model, "CPU", options).create_infer_request()
            model.reshape(
                {
                    name: [
                        size or (capacity if axis and name.startswith("past_") else 1)
                        for axis, size in enumerate(_sizes(node))
                    ]
                    for name, node in nodes.items()
                }
            )
            self._one = core.compile_model(model, "CPU", options).create_infer_request()
            self._check_one(path)
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"{path}: expected a graph that openvino runs, got {error}") from (
                error
            )

    def _check_one(self, path: Path) -> None:
        """Holds the graph of one new event to the dynamic one, over made-up rows."""
        capacity = self.shape.capacity
        probe = _probe(self._inputs, Bucket(1, 1)) | {
            "is_user": np.zeros((1, 1), np.int32),
            "past_length": np.full(1, capacity - 1, np.int32),
            "past_day": np.zeros((1, capacity), np.int32),
        }
        given = {name: probe[name] for name in self._names}
        room = self.empty()
        kept = []
        for array in (room.key, room.value):
            made = np.random.default_rng(0).standard_normal(array.shape, np.float32)
            kept.append([(made.view(np.uint32) >> 16).astype(np.uint16) if self._half else made])
        dynamic, alone = (self._infer(r, given, *kept) for r in (self._dynamic, self._one))
        _compare(path, (1, 1), dynamic[:2], alone[:2])

    def _zeros(self, shape: tuple[int, ...]) -> NDArray[Any]:
        return np.zeros(shape, self._dtype)

    def _run(
        self, inputs: Mapping[str, NDArray[Any]], key: Sequence[Any], value: Sequence[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Any, Any]:
        n_users, n_rows = inputs["is_user"].shape
        if n_users == n_rows == 1 and key[0].shape[-1] == self.shape.capacity:
            return self._infer(self._one, inputs, key, value)
        keys = max(n_rows, key[0].shape[-1])  # kept and new ones are looked up apart
        most = _users_at_once(self._tables, n_rows + 1, keys)
        if n_users <= most:
            return self._infer(self._dynamic, inputs, key, value)
        parts = []
        for start in range(0, n_users, most):
            users = slice(start, start + most)
            given = {name: array[users] for name, array in inputs.items()}
            answers = self._infer(self._dynamic, given, key[users], value[users])
            # Copied: the request gives out its own memory, which the next part overwrites.
            parts.append([np.array(answer) for answer in answers])
        h_next, h_gen, new_key, new_value = (np.concatenate(x) for x in zip(*parts, strict=True))
        return h_next, h_gen, new_key, new_value

    def _infer(
        self,
        request: Any,
        inputs: Mapping[str, NDArray[Any]],
        key: Sequence[NDArray[Any]],
        value: Sequence[NDArray[Any]],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Any, Any]:
        given: dict[str, Any] = dict(inputs)
        for name, arrays in (("past_key", key), ("past_value", value)):
            array = np.ascontiguousarray(stacked(arrays))
            given[name] = self._tensor(array, list(array.shape), self._kind)
        request.infer(given, share_inputs=True, share_outputs=True)
        h_next, h_gen, *new = (request.get_tensor(name).data for name in APPEND_OUTPUTS)
        return h_next.copy(), h_gen.copy(), *(each.view(self._dtype) for each in new)


def _day_tables(model: Any) -> int:
    """Rows of the largest table whose columns are looked up, a bias of each layer and head."""
    rows = [0]
    for node in model.get_ops():
        if node.get_type_name() != "Gather":
            continue
        table, axis = node.input_value(0).get_partial_shape(), node.input_value(2).get_node()
        by_column = axis.get_type_name() == "Constant" and axis.get_data().item() == 1
        if by_column and table.is_static and len(table) == 2:
            rows.append(table[0].get_length())
    return max(rows)


def _users_at_once(tables: int, queries: int, keys: int) -> int:
    """Users whose look-ups, of a column for each pair of query and key, stay below the limit."""
    return max(1, _LOOK_UP // max(1, tables * queries * keys))


def _compare(path: Path, shape: tuple[int, ...], right: Vectors, fixed: Vectors) -> None:
    """Holds what a fixed shape gives to what the dynamic graph gives, on made-up rows.

    OpenVINO 2026.4 computes attention wrongly in bf16 where a fixed shape has as many queries as
    heads, without a word; so no fixed shape is taken on trust.
    """
    for name, x, y in zip(OUTPUTS, right, fixed, strict=True):
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        cosine = float(((x * y).sum(axis=1) / lengths).min(initial=1))
        if not cosine >= _SAME:
            raise BundleError(
                f"{path}: fixed shape {tuple(shape)}: expected {name} of the dynamic graph, "
                f"got cosine {cosine:.3f}: leave this shape out of `fixed`"
            )


def _core() -> tuple[Any, Any]:
    try:
        import openvino
    except ImportError as error:
        raise BackendUnavailable(
            "runtime openvino: expected the package openvino, got none; "
            "install it with `pip install openvino`"
        ) from error
    return openvino, openvino.Core()


def _options(threads: int, exact: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # Server processes share the cores: a pinned thread would wait for its neighbour.
        "ENABLE_CPU_PINNING": False,
    }
    return options | ({"INFERENCE_PRECISION_HINT": "f32"} if exact else {})


def _run(request: Any, inputs: dict[str, NDArray[Any]]) -> Vectors:
    answer = request.infer(inputs, share_inputs=True)
    # Copied: the request gives out its own memory, which the next call overwrites.
    h_next, h_gen = (np.array(answer[name]) for name in OUTPUTS)
    return h_next, h_gen


def _probe(inputs: Mapping[str, GraphInput], bucket: Bucket) -> dict[str, NDArray[Any]]:
    """Full windows of random rows; every code is 0."""
    rng = np.random.default_rng(0)
    made = {}
    for name, given in inputs.items():
        shape = (bucket.batch,) if name in USER_INPUTS else tuple(bucket)
        shape = shape if given.width is None else (*shape, given.width)
        made[name] = np.zeros(shape, given.dtype)
    made["rows"][:] = rng.standard_normal(made["rows"].shape)
    if "length" in made:
        made["length"][:] = bucket.length
    return made


def _read(
    openvino: Any,
    core: Any,
    path: Path,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
) -> Any:
    """The model, with other inputs in bf16 taken as fp32: numpy has no such type.

    Args:
        inputs, outputs: types to give and get by name, where they are not the graph's.
    """
    model = core.read_model(str(path))
    steps = openvino.preprocess.PrePostProcessor(model)
    inputs, outputs = inputs or {}, outputs or {}
    for node in model.inputs:
        if node.any_name in inputs:
            steps.input(node.any_name).tensor().set_element_type(inputs[node.any_name])
        elif node.get_element_type() == openvino.Type.bf16:
            steps.input(node.any_name).tensor().set_element_type(openvino.Type.f32)
    for node in model.outputs:
        if node.any_name in outputs:
            steps.output(node.any_name).tensor().set_element_type(outputs[node.any_name])
    return steps.build()


def _graph_input(node: Any) -> GraphInput:
    dtype = np.dtype(node.get_element_type().to_dtype())
    return GraphInput.of(node.any_name, dtype, _sizes(node))


def _sizes(node: Any) -> list[int | None]:
    """The shape, None where it is dynamic."""
    return [size.get_length() if size.is_static else None for size in node.get_partial_shape()]


def _fixed_shape(node: Any, bucket: Bucket) -> list[int]:
    """The bucket's sizes where the graph's are dynamic: batch first, then length."""
    return [size or bucket[axis] for axis, size in enumerate(_sizes(node))]
