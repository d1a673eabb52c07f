"""int8 by Q/DQ: what is quantised, how near it stays, and that foreign ranges are refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from engine.compile.onnx import export_encoder
from engine.compile.quantize import export_int8, linear_nodes, observe, quantize
from engine.compile.samples import random_batch
from engine.model.build import model_data
from engine.model.stars import Stars
from engine.runtime.onnx_cpu import OnnxEncoder
from tests.tiny import cosine, encoded, tiny_config, tiny_shop, trained_like

PRODUCTS = ("query", "key", "value", "out", "feed_in", "feed_out")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stars, Path]:
    torch.manual_seed(0)
    config = tiny_config(window=40, hop=10, d_model=64, heads=2, d_ff=128).model
    model = trained_like(Stars(config, model_data(tiny_shop())))
    path = tmp_path_factory.mktemp("graph") / "encode.onnx"
    export_encoder(model, path)
    return model, path


def test_the_layers_products_are_int8_and_nothing_else(exported: tuple[Stars, Path]) -> None:
    model, path = exported
    graph = onnx.load(path)
    made = quantize(graph, observe(graph, [random_batch(model, 4, 40, seed=0, full=False)]))
    assert set(linear_nodes(graph)) == {
        f"layers.{layer}.{name}/MatMul" for layer in range(2) for name in PRODUCTS
    }
    by_output = {output: node for node in made.graph.node for output in node.output}
    weights = {weight.name: weight for weight in made.graph.initializer}
    quantised = 0
    for node in made.graph.node:
        backs = [by_output[n] for n in node.input if n in by_output]
        backs = [n for n in backs if n.op_type == "DequantizeLinear"]
        if not backs:
            continue
        assert node.op_type in ("MatMul", "DequantizeLinear"), node.name
        if node.op_type == "MatMul":
            quantised += 1
            stored = weights[by_output[node.input[1]].input[0]]
            assert stored.data_type == TensorProto.INT8
            assert np.abs(numpy_helper.to_array(stored).astype(int)).max() == 127
    assert quantised == 12
    # query, key and value of a layer share one pair; the pooled query has its own.
    assert sum(n.op_type == "QuantizeLinear" for n in made.graph.node) == 4 + 5
    assert made.ByteSize() < 0.6 * graph.ByteSize()


def test_it_stays_near(exported: tuple[Stars, Path], tmp_path: Path) -> None:
    model, path = exported
    graph = onnx.load(path)
    ranges = observe(graph, [random_batch(model, 8, 40, s, full=False) for s in range(3)])
    onnx.save(quantize(graph, ranges), tmp_path / "int8.onnx")
    inputs = random_batch(model, 8, 33, seed=9, full=False)
    got = OnnxEncoder(tmp_path / "int8.onnx").encode(inputs)
    for ours, theirs in zip(got, encoded(model, inputs), strict=True):
        assert cosine(ours, theirs) > 0.99
        assert not np.array_equal(ours, theirs)


def test_half_types_keep_their_scales(exported: tuple[Stars, Path], tmp_path: Path) -> None:
    model, path = exported
    graph = onnx.load(path)
    ranges = observe(graph, [random_batch(model, 4, 40, seed=0)])
    export_encoder(model, tmp_path / "fp16.onnx", "fp16")
    made = quantize(onnx.load(tmp_path / "fp16.onnx"), ranges)
    weights = {weight.name: weight for weight in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert weights[node.input[1]].data_type == TensorProto.FLOAT16


def test_what_cannot_be_calibrated(exported: tuple[Stars, Path]) -> None:
    model, path = exported
    graph = onnx.load(path)
    with pytest.raises(ValueError, match="expected batches to calibrate on, got none"):
        observe(graph, [])
    batch = random_batch(model, 1, 4, seed=0)
    batch["rows"][:] = np.inf
    with pytest.raises(ValueError, match=r"layers\.\d\.\w+/MatMul: expected finite inputs, got"):
        observe(graph, [batch])
    ranges = observe(graph, [random_batch(model, 1, 4, seed=0)])
    del ranges["layers.0.query/MatMul"]
    with pytest.raises(ValueError, match=r"differ at \['layers\.0\.query/MatMul'\]"):
        quantize(graph, ranges)
    with pytest.raises(ValueError, match="form plain: expected base fp32, got fp16"):
        export_int8(model, path, [batch], "fp16", "plain")
