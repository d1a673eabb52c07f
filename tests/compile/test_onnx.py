from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from engine.compile.graph import EncodeGraph, graph_inputs
from engine.compile.onnx import check, export_encoder
from engine.model.build import build_model, model_data
from engine.model.stars import Stars
from engine.runtime.inputs import INPUTS, OUTPUTS
from engine.runtime.onnx_cpu import OnnxEncoder
from tests.tiny import (
    cosine,
    encoded,
    random_inputs,
    tiny_config,
    tiny_shop,
    trained_like,
)

SHAPES = [(1, 1), (1, 200), (3, 17), (4, 200), (7, 1), (2, 199)]
WINDOW = 200


def tiny_model(**changes: object) -> Stars:
    torch.manual_seed(0)
    data = replace(model_data(tiny_shop()), n_event_types=3)
    return trained_like(Stars(tiny_config(window=WINDOW, hop=50, **changes).model, data))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stars, Path]:
    model = tiny_model()
    path = tmp_path_factory.mktemp("graph") / "encode.onnx"
    export_encoder(model, path)
    return model, path


def compare(model: Stars, path: Path, batch: int, length: int) -> None:
    inputs = random_inputs(model, batch, length, seed=batch * 1000 + length)
    got = OnnxEncoder(path).encode(inputs)
    for name, ours, theirs in zip(OUTPUTS, got, encoded(model, inputs), strict=True):
        assert ours.shape == (batch, model.config.d_serve)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("batch", "length"), SHAPES)
def test_the_graph_equals_torch(exported: tuple[Stars, Path], batch: int, length: int) -> None:
    compare(*exported, batch, length)


def test_every_bucket_of_days_is_the_models(exported: tuple[Stars, Path]) -> None:
    """Gaps around each power of two, and far apart: one event a gap, days ascending."""
    model, path = exported
    gaps = np.array([0, 1, 1, 2, 3, 4, 7, 8, 15, 16, 255, 256, 257, 511, 512, 513, 5000])
    inputs = random_inputs(model, 1, len(gaps), seed=5) | {"day": np.cumsum(gaps)[None] + 19_000}
    for ours, theirs in zip(OnnxEncoder(path).encode(inputs), encoded(model, inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


def test_batch_and_length_are_dynamic(exported: tuple[Stars, Path]) -> None:
    graph = onnx.load(exported[1]).graph
    assert {value.name for value in graph.input} == set(INPUTS)
    assert tuple(value.name for value in graph.output) == OUTPUTS
    dims = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    model = exported[0]
    assert dims["rows"] == ["batch", "length", model.config.d_model]
    for name in ("event_type", "hour", "weekday", "week", "day", "recency"):
        assert dims[name] == ["batch", "length"]
    assert dims["signals"] == ["batch", "length", 2]
    assert dims["length"] == ["batch"]
    assert dims["user_categorical"] == ["batch", 1]
    assert dims["user_numeric"] == dims["user_known"] == ["batch", 1]


def test_no_input_is_ignored(exported: tuple[Stars, Path]) -> None:
    model, path = exported
    encoder = OnnxEncoder(path)
    inputs = random_inputs(model, 4, 30, seed=3)
    inputs["user_known"][:] = 1
    before = encoder.encode(inputs)
    for name in INPUTS:
        value = inputs[name].copy()
        if name == "user_categorical":
            value = (value + 1) % model.user.tables[0].num_embeddings
        elif name == "length":
            value = np.full_like(value, 29)
        elif name == "day":
            value[:, 20:] += 300
        elif value.dtype == np.float32:
            value = value * 0.5
        else:
            value = (value + 1) % len(getattr(model, name))
        after = encoder.encode(inputs | {name: value})
        for output, x, y in zip(OUTPUTS, before, after, strict=True):
            assert not np.allclose(x, y, atol=1e-6), (name, output)


def test_what_lies_past_the_end_reaches_nothing(exported: tuple[Stars, Path]) -> None:
    model, path = exported
    encoder = OnnxEncoder(path)
    inputs = random_inputs(model, 4, 30, seed=3)
    other = {k: v.copy() for k, v in inputs.items()}
    for b, length in enumerate(inputs["length"]):
        other["rows"][b, length:] = 1e3
        other["hour"][b, length:] = 1
    other["day"][1:, 15:] += 40
    for x, y in zip(encoder.encode(inputs), encoder.encode(other), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_folder_holds_the_graph_and_nothing_that_could_run_code(
    exported: tuple[Stars, Path],
) -> None:
    _, path = exported
    assert [p.name for p in path.parent.iterdir()] == ["encode.onnx"]
    graph = onnx.load(path)
    check(graph)
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    assert b"pkg.torch" not in path.read_bytes()


def test_nodes_are_named_by_their_module(exported: tuple[Stars, Path]) -> None:
    names = [node.name for node in onnx.load(exported[1]).graph.node]
    assert len(set(names)) == len(names)
    assert {"layers.0.query/MatMul", "layers.1.feed_out/MatMul", "bias/Gather"} <= set(names)


@pytest.mark.parametrize("form", ["plain", "pooled"])
def test_the_rivals_compute_the_same(tmp_path: Path, form: str) -> None:
    model = tiny_model(layers=1)
    export_encoder(model, tmp_path / "encode.onnx", form=form)
    compare(model, tmp_path / "encode.onnx", 3, 17)
    with pytest.raises(ValueError, match=f"form {form}: expected precision fp32, got fp16"):
        export_encoder(model, tmp_path / "encode.onnx", "fp16", form)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_is_in_the_graph(tmp_path: Path, precision: str) -> None:
    model = tiny_model()
    path = tmp_path / "encode.onnx"
    export_encoder(model, path, precision)
    graph = onnx.load(path)
    half = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True)
    types = {w.name: w.data_type for w in graph.graph.initializer} | {
        v.name: v.type.tensor_type.elem_type
        for v in (*inferred.graph.value_info, *graph.graph.input, *graph.graph.output)
    }
    assert types["rows"] == half
    assert types["signals"] == types["h_next"] == TensorProto.FLOAT
    by_kind: dict[str, set[int]] = {}
    for node in graph.graph.node:
        by_kind.setdefault(node.op_type, set()).add(types[node.output[0]])
    assert by_kind["MatMul"] == by_kind["Gemm"] == {half}
    assert by_kind["LayerNormalization"] == by_kind["Softmax"] == {TensorProto.FLOAT}
    inputs = random_inputs(model, 6, 60, seed=1)
    with torch.no_grad():
        graph_module = EncodeGraph(model, precision)
        typed = {"rows": graph_module.tokens.dtype}
        got = graph_module(
            *(
                torch.from_numpy(inputs[n]).to(
                    typed.get(n, torch.float32 if inputs[n].dtype == np.float32 else torch.int32)
                )
                for n in graph_inputs(model)
            )
        )
    bound = {"fp16": 0.99999, "bf16": 0.999}[precision]
    for ours, theirs in zip(got, encoded(model, inputs), strict=True):
        assert cosine(ours.numpy(), theirs) > bound


def test_pooling_cls_exports(tmp_path: Path) -> None:
    config = tiny_config(window=WINDOW, hop=50, layers=2, pooling="cls").model
    model = trained_like(build_model(config, tiny_shop(), seed=0))
    export_encoder(model, tmp_path / "encode.onnx")
    compare(model, tmp_path / "encode.onnx", 4, 23)


def test_a_shop_without_profiles_signals_or_time_exports(tmp_path: Path) -> None:
    bare = replace(
        model_data(tiny_shop(with_time=False)), category_sizes=[], n_user_numeric=0, n_signals=0
    )
    config = tiny_config(window=WINDOW, hop=50, layers=1, day_bias=False).model
    model = trained_like(Stars(config, bare))
    export_encoder(model, tmp_path / "encode.onnx")
    names = [value.name for value in onnx.load(tmp_path / "encode.onnx").graph.input]
    assert names == ["rows", "event_type", "hour", "weekday", "week", "recency", "length"]
    for batch, length in [(1, 1), (3, 200)]:
        compare(model, tmp_path / "encode.onnx", batch, length)
