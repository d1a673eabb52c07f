"""A traced graph typed in each precision: same operators, weights rounded as torch rounds them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from engine.compile.graph import DTYPES, EncodeGraph
from engine.compile.onnx import check, trace_append, trace_encoder
from engine.compile.typed import typed
from engine.model.build import model_data
from engine.model.stars import Stars
from tests.tiny import tiny_config, tiny_shop, trained_like

KINDS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def model() -> Stars:
    torch.manual_seed(0)
    return trained_like(Stars(tiny_config().model, model_data(tiny_shop())))


@pytest.fixture(scope="module")
def encode(model: Stars) -> onnx.ModelProto:
    return trace_encoder(model)


@pytest.fixture(scope="module", params=["encode", "append"])
def traced(
    model: Stars, encode: onnx.ModelProto, request: pytest.FixtureRequest
) -> onnx.ModelProto:
    return encode if request.param == "encode" else trace_append(model)


@pytest.mark.parametrize("precision", KINDS)
def test_nothing_is_left_of_fp64(traced: onnx.ModelProto, precision: str) -> None:
    before = traced.SerializeToString()
    made = typed(traced, precision)
    assert traced.SerializeToString() == before
    check(made)
    values = onnx.shape_inference.infer_shapes(made, strict_mode=True).graph
    found = {w.data_type for w in made.graph.initializer} | {
        v.type.tensor_type.elem_type for v in (*values.value_info, *values.input, *values.output)
    }
    assert TensorProto.DOUBLE not in found
    assert KINDS[precision] in found
    operators = [n.op_type for n in made.graph.node if n.op_type != "Cast"]
    assert operators == [n.op_type for n in traced.graph.node if n.op_type != "Cast"]
    assert [o.name for o in made.graph.output] == [o.name for o in traced.graph.output]


@pytest.mark.parametrize("precision", KINDS)
def test_weights_are_rounded_as_torch_rounds(
    model: Stars, encode: onnx.ModelProto, precision: str
) -> None:
    made = typed(encode, precision)
    weights = {weight.name: weight for weight in made.graph.initializer}
    state = EncodeGraph(model, precision).state_dict()
    named = state.keys() & weights.keys()
    assert len(named) > 20
    for name in named:
        np.testing.assert_array_equal(bits(weights[name]), bits_of(state[name]), err_msg=name)
    product = next(n for n in made.graph.node if n.name == "layers.1.feed_in/MatMul")
    transposed = state["layers.1.feed_in.weight"].T.contiguous()
    np.testing.assert_array_equal(bits(weights[product.input[1]]), bits_of(transposed))


def test_fp32_has_no_cast_from_fp32(traced: onnx.ModelProto) -> None:
    made = onnx.shape_inference.infer_shapes(typed(traced, "fp32"), strict_mode=True)
    values = (*made.graph.value_info, *made.graph.input, *made.graph.output)
    kinds = {value.name: value.type.tensor_type.elem_type for value in values}
    casts = [node for node in made.graph.node if node.op_type == "Cast"]
    assert casts
    for node in casts:
        assert kinds[node.input[0]] != kinds[node.output[0]], node.name


def bits(weight: onnx.TensorProto) -> NDArray[np.uint8]:
    if weight.data_type == TensorProto.BFLOAT16:
        return np.frombuffer(weight.raw_data, np.uint8)
    return np.frombuffer(numpy_helper.to_array(weight).tobytes(), np.uint8)


def bits_of(value: torch.Tensor) -> NDArray[np.uint8]:
    assert value.dtype in DTYPES.values()
    return value.reshape(-1).view(torch.uint8).numpy()
