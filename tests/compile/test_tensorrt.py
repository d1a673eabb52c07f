"""The builder: TensorRT-RTX really builds here, TensorRT's calls are recorded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from engine.compile.inspect import NetworkReport, NetworkTensor
from engine.compile.onnx import trace_encoder
from engine.compile.quantize import observe, quantize
from engine.compile.samples import random_batch
from engine.compile.tensorrt import build_plan
from engine.compile.typed import typed
from engine.errors import BackendUnavailable, CompileError
from engine.model.build import model_data
from engine.model.stars import Stars
from engine.runtime.sidecar import Bucket, KernelContent, Machine, read_plan, sha256, write_plan
from engine.runtime.tensorrt import load_module
from tests.tiny import tiny_config, tiny_shop, trained_like

BUCKETS = (Bucket(1, 20), Bucket(4, 10))
SMS = (80, 86, 89, 120)


@pytest.fixture(scope="module")
def graphs() -> dict[str, bytes]:
    """The encode graph by precision; int8 over fp16."""
    torch.manual_seed(0)
    model = trained_like(Stars(tiny_config().model, model_data(tiny_shop())))
    traced = trace_encoder(model)
    made = {name: typed(traced, name) for name in ("fp32", "fp16", "bf16")}
    ranges = observe(made["fp32"], [random_batch(model, 4, 20, seed=0)])
    made["int8"] = quantize(made["fp16"], ranges)
    return {name: graph.SerializeToString() for name, graph in made.items()}


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: not built")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_rtx_builds_for_four_cards(
    rtx: Any, graphs: dict[str, bytes], precision: str, tmp_path: Path
) -> None:
    plan = build_plan(rtx, "tensorrt-rtx", graphs[precision], precision, BUCKETS, sms=SMS)
    one = build_plan(rtx, "tensorrt-rtx", graphs[precision], precision, BUCKETS, sms=SMS[:1])
    # What differs by card is small: kernels are compiled on the card, when the engine is loaded.
    assert len(plan.content) > len(one.content) > 100_000
    assert plan.sidecar.sm == SMS
    assert plan.sidecar.buckets == BUCKETS
    assert plan.timing_cache == b""
    rows = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16", "int8": "HALF"}[precision]
    assert plan.network.inputs["rows"] == rows
    assert plan.network.inputs["length"] == plan.network.inputs["hour"] == "INT32"
    assert plan.network.outputs == {"h_next": "FLOAT", "h_gen": "FLOAT"}
    assert {tensor.dtype for tensor in plan.network.products()} == {rows}
    assert ("INT8" in plan.network.by_dtype()) == (precision == "int8")
    path = tmp_path / "encode.rtx"
    write_plan(path, plan.content, plan.sidecar)
    machine = Machine(rtx.__version__, 89, 580)
    content, _ = read_plan(path, "tensorrt-rtx", machine, sha256(graphs[precision]))
    assert content == plan.content


def test_a_planted_fp32_product_is_found(rtx: Any, graphs: dict[str, bytes]) -> None:
    graph = onnx.load_from_string(graphs["fp16"])
    place = next(n for n in graph.graph.node if n.name == "layers.1.feed_in/MatMul")
    index = list(graph.graph.node).index(place)
    wide = [
        helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.FLOAT)
        for name in place.input
    ]
    product = helper.make_node(
        "MatMul", [node.output[0] for node in wide], ["wide"], name="planted/MatMul"
    )
    narrow = helper.make_node("Cast", ["wide"], list(place.output), to=TensorProto.FLOAT16)
    graph.graph.node.remove(place)
    for offset, node in enumerate([*wide, product, narrow]):
        graph.graph.node.insert(index + offset, node)
    onnx.checker.check_model(graph, full_check=True)
    with pytest.raises(CompileError, match="planted/MatMul: expected a product in HALF, got FLOAT"):
        build_plan(rtx, "tensorrt-rtx", graph.SerializeToString(), "fp16", BUCKETS, sms=(80,))


def test_a_planted_fp32_sum_is_found(rtx: Any, graphs: dict[str, bytes]) -> None:
    graph = onnx.load_from_string(graphs["bf16"])
    place = next(n for n in graph.graph.node if n.name == "layers.0.feed_in/Add")
    index = list(graph.graph.node).index(place)
    wide = [
        helper.make_node("Cast", [name], [f"{name}_wide"], to=TensorProto.FLOAT)
        for name in place.input
    ]
    total = helper.make_node("Add", [n.output[0] for n in wide], ["wide"], name="planted/Add")
    narrow = helper.make_node("Cast", ["wide"], list(place.output), to=TensorProto.BFLOAT16)
    graph.graph.node.remove(place)
    for offset, node in enumerate([*wide, total, narrow]):
        graph.graph.node.insert(index + offset, node)
    text = r"layer layers\.\d/Add \(elementwise\): expected BF16, got FLOAT"
    with pytest.raises(CompileError, match=text):
        build_plan(rtx, "tensorrt-rtx", graph.SerializeToString(), "bf16", BUCKETS, sms=(80,))


def test_a_graph_in_another_precision(rtx: Any, graphs: dict[str, bytes]) -> None:
    with pytest.raises(CompileError, match="expected a product in HALF, got BF16"):
        build_plan(rtx, "tensorrt-rtx", graphs["bf16"], "fp16", BUCKETS, sms=(80,))
    with pytest.raises(CompileError, match="expected quantised layers for int8, got none"):
        build_plan(rtx, "tensorrt-rtx", graphs["fp16"], "int8", BUCKETS, sms=(80,))


def test_what_is_no_graph(rtx: Any) -> None:
    with pytest.raises(CompileError, match="tensorrt-rtx: expected a graph that it parses, got"):
        build_plan(rtx, "tensorrt-rtx", b"no graph", "fp16", BUCKETS, sms=(80,))


def test_a_softmax_in_half_is_not_an_fp32_layer() -> None:
    """One fp32 sum a softmax is meant; a second is not, nor any other kind."""
    softmax = NetworkTensor("s", "SOFTMAX", "FLOAT", (1,))
    total = NetworkTensor("a", "ELEMENTWISE", "FLOAT", (1,))
    NetworkReport((softmax, total), {}, {}).check("fp16")
    with pytest.raises(CompileError, match=r"layer a \(elementwise\)"):
        NetworkReport((softmax, total, total), {}, {}).check("fp16")
    gather = NetworkTensor("g", "GATHER", "FLOAT", (1,))
    with pytest.raises(CompileError, match=r"layer g \(gather\): expected BF16, got FLOAT"):
        NetworkReport((gather,), {}, {}).check("bf16")
    NetworkReport((gather,), {}, {}).check("fp32")


def recorded(shapes: dict[str, tuple[int, ...]]) -> MagicMock:
    """A stand-in of the module `tensorrt` that builds nothing and remembers every call."""
    trt = MagicMock(__version__="10.13.2.6")
    trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
    builder = trt.Builder.return_value
    network = builder.create_network.return_value
    network.num_layers = network.num_outputs = 0
    network.num_inputs = len(shapes)
    tensors = [SimpleNamespace(name=k, shape=v, dtype=MagicMock()) for k, v in shapes.items()]
    network.get_input.side_effect = tensors.__getitem__
    builder.build_serialized_network.return_value = b"plan"
    config = builder.create_builder_config.return_value
    config.create_timing_cache.return_value.serialize.return_value = b"times"
    return trt


SHAPES = {"rows": (-1, -1, 16), "length": (-1,), "user_numeric": (-1, 3)}


def test_what_tensorrt_is_told() -> None:
    trt = recorded(SHAPES)
    plan = build_plan(
        trt, "tensorrt", b"graph", "fp32", BUCKETS, sms=(90,),
        version_compatible=True, timing_cache=b"before",
    )  # fmt: skip
    builder = trt.Builder.return_value
    builder.create_network.assert_called_once_with(2)
    profile = builder.create_optimization_profile.return_value
    calls = [call.args for call in profile.set_shape.call_args_list]
    assert calls == [
        (name, shape, shape, shape)
        for name, shape in [
            ("rows", (1, 20, 16)), ("length", (1,)), ("user_numeric", (1, 3)),
            ("rows", (4, 10, 16)), ("length", (4,)), ("user_numeric", (4, 3)),
        ]
    ]  # fmt: skip
    config = builder.create_builder_config.return_value
    assert config.add_optimization_profile.call_count == 2
    config.create_timing_cache.assert_called_once_with(b"before")
    config.set_timing_cache.assert_called_once_with(
        config.create_timing_cache.return_value, ignore_mismatch=False
    )
    config.set_flag.assert_called_once_with(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert plan.content == b"plan"
    assert plan.timing_cache == b"times"
    assert plan.sidecar.version == "10.13.2.6"
    assert plan.sidecar.version_compatible


def test_a_fused_plan_says_what_it_holds() -> None:
    content = KernelContent("a" * 64, "b" * 64, k_max=100, ptx_version=87)
    plan = build_plan(
        recorded(SHAPES), "tensorrt", b"fused", "fp32", BUCKETS, sms=(100,), kernels=content
    )
    made = plan.sidecar
    assert (made.k_max, made.ptx_version, made.driver_floor) == (100, 87, 580)
    assert (made.graph_sha256, made.tables_sha256) == ("a" * 64, "b" * 64)


def test_a_build_that_fails() -> None:
    trt = recorded(SHAPES)
    trt.Builder.return_value.build_serialized_network.return_value = None
    with pytest.raises(CompileError, match="tensorrt: the build failed; its log is above"):
        build_plan(trt, "tensorrt", b"graph", "fp32", BUCKETS, sms=(90,))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"buckets": ()}, r"buckets: expected distinct ones, got \[\]"),
        ({"buckets": (Bucket(1, 2),) * 2}, "buckets: expected distinct ones"),
        ({"sms": (90,)}, r"sms: expected distinct ones of \[75, 80, .*\], got \[90\]"),
        ({"sms": (80, 80)}, r"sms: expected distinct ones"),
        ({"sms": ()}, r"sms: expected distinct ones"),
        ({"version_compatible": True}, "version_compatible: tensorrt-rtx has no such engines"),
        ({"target": "tensorrt", "sms": (80, 90)}, r"sms: expected this machine's card, got"),
    ],
)
def test_what_cannot_be_built(changes: dict[str, Any], text: str) -> None:
    given: dict[str, Any] = {"target": "tensorrt-rtx", "buckets": BUCKETS, "sms": (80,)} | changes
    target, buckets = given.pop("target"), given.pop("buckets")
    with pytest.raises(ValueError, match=f"build_plan: {text}"):
        build_plan(None, target, b"", "fp16", buckets, **given)


def test_a_missing_package_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for target, module, extra in (
        ("tensorrt", "tensorrt", "gpu"), ("tensorrt-rtx", "tensorrt_rtx", "rtx"),
    ):  # fmt: skip
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(BackendUnavailable, match=rf"{module}, got .*stars-engine\[{extra}\]"):
            load_module(target)
