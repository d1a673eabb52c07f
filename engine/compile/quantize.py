"""int8 by Q/DQ: ranges seen on real sequences, then the layers' products between Q and DQ.

Symmetric, weights per output channel, activations per tensor: what TensorRT takes, and what
OpenVINO and ONNX Runtime turn into int8 products on a CPU. Only the layers' linear products are
quantised: they are all but a hundredth of the arithmetic. Attention's products, the heads and the
user's features keep the graph's dtype, since their results feed a softmax or the answer itself.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from engine.model.stars import Stars
from engine.runtime.inputs import Batch, graph_batch
from engine.runtime.onnx_cpu import graph_inputs

from .onnx import Form, check, trace_encoder
from .typed import Typed, typed

_LAYERS = re.compile(r"(.*\.)?layers\.\d+\.")


def export_int8(
    model: Stars,
    path: Path,
    batches: Iterable[Batch],
    base: Typed = "fp32",
    form: Form = "graph",
) -> None:
    """Writes the `encode` graph in int8.

    Args:
        model: trained model, on the CPU.
        path: the .onnx file.
        batches: to calibrate on; see `observe`.
        base: what is not quantised: fp32 for a CPU, which picks its own, fp16 or bf16 for a GPU.
        form: see `trace_encoder`.
    Raises:
        ValueError: another form than `graph` over another base than fp32; see `observe` too.
    """
    if form != "graph" and base != "fp32":
        raise ValueError(f"export_int8: form {form}: expected base fp32, got {base}")
    traced = trace_encoder(model, form)
    graph = typed(traced, "fp32") if form == "graph" else traced
    ranges = observe(graph, batches)
    onnx.save(quantize(graph if base == "fp32" else typed(traced, base), ranges), path)


def linear_nodes(graph: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The layers' products with constant weights, by their names (`layers.0.query/MatMul`)."""
    constants = {weight.name for weight in graph.graph.initializer}
    return {
        node.name: node
        for node in graph.graph.node
        if node.op_type == "MatMul" and _LAYERS.match(node.name) and node.input[1] in constants
    }


def observe(graph: onnx.ModelProto, batches: Iterable[Batch]) -> dict[str, float]:
    """Largest magnitude that reaches each of `linear_nodes`, over all batches.

    Args:
        graph: the encode graph in fp32.
        batches: what `engine.features.encode_inputs` makes of real sequences.
    Raises:
        ValueError: no batches, or values that are not finite.
    """
    inputs = {name: node.input[0] for name, node in linear_nodes(graph).items()}
    watched = onnx.ModelProto()
    watched.CopyFrom(graph)
    tensors = sorted(set(inputs.values()))
    kind = onnx.TensorProto.FLOAT
    watched.graph.output.extend(helper.make_tensor_value_info(t, kind, None) for t in tensors)
    session = onnxruntime.InferenceSession(
        watched.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    read = graph_inputs(session.get_inputs())
    largest = dict.fromkeys(tensors, 0.0)
    calibrated = False
    for batch in batches:
        calibrated = True
        values = session.run(tensors, graph_batch(batch, read))
        for name, value in zip(tensors, values, strict=True):
            # np.maximum, not max: NaN stays.
            largest[name] = float(np.maximum(largest[name], np.abs(value).max(initial=0)))
    if not calibrated:
        raise ValueError("observe: expected batches to calibrate on, got none")
    for node, tensor in inputs.items():
        if not np.isfinite(largest[tensor]):
            raise ValueError(f"observe: {node}: expected finite inputs, got {largest[tensor]}")
    return {node: largest[tensor] for node, tensor in inputs.items()}


def quantize(graph: onnx.ModelProto, ranges: dict[str, float]) -> onnx.ModelProto:
    """A copy of `graph` with Q/DQ around the inputs and weights of its `linear_nodes`.

    Args:
        graph: in any precision; what is not int8 stays in it.
        ranges: of `observe`, on the fp32 encode graph of the same model; the append graph has the
            same products.
    Raises:
        ValueError: the ranges are of another graph.
    """
    made = onnx.ModelProto()
    made.CopyFrom(graph)
    linear = linear_nodes(made)
    if linear.keys() != ranges.keys():
        odd = sorted(linear.keys() ^ ranges.keys())
        raise ValueError(f"quantize: expected the ranges of this graph's products, differ at {odd}")
    weights = {weight.name: weight for weight in made.graph.initializer}
    pairs: dict[str, tuple[str, list[onnx.NodeProto]]] = {}  # activation -> quantised name, nodes
    ahead = []
    for name, node in linear.items():
        activation, weight = node.input[:2]
        if activation not in pairs:
            dtype = numpy_helper.to_array(weights[weight]).dtype
            scale = np.array(max(ranges[name], 1e-5) / 127, dtype)
            zero = np.zeros((), np.int8)
            pairs[activation] = _quantised(made.graph, activation, scale, zero, name)
        node.input[0] = pairs[activation][0]
        node.input[1], dequantise = _weight(made.graph, weights[weight], name)
        ahead.append(dequantise)
    known = {value.name for value in made.graph.input}
    nodes = [*ahead, *(n for name, (_, new) in pairs.items() if name in known for n in new)]
    for node in made.graph.node:
        nodes.append(node)
        for output in node.output:
            nodes.extend(pairs[output][1] if output in pairs else ())
    _replace(made.graph, nodes)
    check(made)
    return made


def _quantised(
    graph: onnx.GraphProto, tensor: str, scale: NDArray[Any], zero: NDArray[Any], name: str
) -> tuple[str, list[onnx.NodeProto]]:
    """Name of `tensor` after Q/DQ, and the two nodes."""
    parts = [f"{tensor}_scale", f"{tensor}_zero"]
    graph.initializer.extend(map(numpy_helper.from_array, (scale, zero), parts))
    quantised, back = f"{tensor}_int8", f"{tensor}_back"
    return back, [
        helper.make_node("QuantizeLinear", [tensor, *parts], [quantised], name=f"{name}/Quantize"),
        helper.make_node("DequantizeLinear", [quantised, *parts], [back], name=f"{name}/Back"),
    ]


def _weight(
    graph: onnx.GraphProto, weight: onnx.TensorProto, name: str
) -> tuple[str, onnx.NodeProto]:
    """Name of the dequantised weight [in, out], and the node that makes it of int8."""
    value = numpy_helper.to_array(weight)
    # Rounded to the graph's dtype first: the int8 values then fit the scale that is stored.
    scale = (np.maximum(np.abs(value.astype(np.float32)).max(axis=0), 1e-5) / 127).astype(
        value.dtype
    )
    rounded = np.rint(value.astype(np.float32) / scale.astype(np.float32))
    parts = [f"{name}/weight_int8", f"{name}/weight_scale"]
    values = (np.clip(rounded, -127, 127).astype(np.int8), scale)
    graph.initializer.extend(map(numpy_helper.from_array, values, parts))
    back = f"{name}/weight"
    return back, helper.make_node("DequantizeLinear", parts, [back], name=f"{name}/Weight", axis=1)


def _replace(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """The nodes in their new order, and no weight that nothing reads any more."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    read = {name for node in copies for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in read]
    copies_kept = [onnx.TensorProto.FromString(w.SerializeToString()) for w in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies_kept)
