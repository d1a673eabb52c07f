"""One traced graph, typed in each precision.

Tracing takes nearly all of an export's time and is the same for every precision. So a graph is
traced once in fp64, which stands for "the graph's dtype": weights are kept exactly, and each cast
to and from what stays in fp32 (`graph`) is in it. `typed` puts a precision in the place of fp64.
"""

from typing import Literal

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

from .graph import DTYPES, Precision

TRACED: Precision = "fp64"
Typed = Literal["fp32", "fp16", "bf16"]
_KINDS: dict[Typed, int] = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}


def typed(traced: onnx.ModelProto, precision: Typed) -> onnx.ModelProto:
    """A copy of a graph traced in fp64, in `precision`: weights, inputs, products.

    Args:
        traced: of `engine.compile.onnx.trace_encoder` or `trace_append`.
        precision: of the copy. In fp32 the casts to fp32 are gone: there is nothing to cast.
    """
    made = onnx.ModelProto()
    made.CopyFrom(traced)
    kind = _KINDS[precision]
    for value in (*made.graph.input, *made.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = kind
    tensors = [*made.graph.initializer]
    for node in made.graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
            elif node.op_type == "Cast" and attribute.i == TensorProto.DOUBLE:
                attribute.i = kind
    for tensor in tensors:
        if tensor.data_type == TensorProto.DOUBLE:
            _convert(tensor, precision)
    if precision == "fp32":
        _drop_casts(made)
    return made


def _convert(tensor: onnx.TensorProto, precision: Typed) -> None:
    """Rounds to nearest, as torch does; numpy has no bf16."""
    # A copy: what numpy_helper gives may be read-only.
    values = torch.from_numpy(np.array(numpy_helper.to_array(tensor))).to(DTYPES[precision])
    name, dims = tensor.name, values.shape
    tensor.Clear()
    tensor.name, tensor.data_type = name, _KINDS[precision]
    tensor.dims.extend(dims)
    tensor.raw_data = values.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _drop_casts(model: onnx.ModelProto) -> None:
    """Leaves out the casts from fp32 to fp32."""
    graph = model.graph
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    outputs = {value.name for value in graph.output}
    renamed: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
        same = kinds.get(node.input[0] if node.input else "") == TensorProto.FLOAT
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT and same:
            renamed[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    # An output keeps its name: whoever makes it takes it over.
    final = {source: name for name, source in renamed.items() if name in outputs}
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = final.get(name, name)
    del graph.node[:]
    graph.node.extend(nodes)
