"""The fused graph as TensorRT takes it: parsed around the plugins, which get what they expect.

TensorRT-RTX has no plugins: it parses the graph cut at them, each one's outputs as inputs and its
inputs as outputs. The plugins are made by TensorRT's own Python layer, as its ONNX parser asks.
"""

from typing import Any

import pytest

from tests.compile import tensorrt_stand_in as stand_in
from tests.compiled import run_compiled

SCRIPT = """
import dataclasses, json, sys, tempfile
from pathlib import Path
import numpy as np, onnx, torch
import tensorrt_rtx as rtx
from onnx import helper
from engine.compile.bridge import fused_layers, register
from engine.compile.fused import DOMAIN, NODE_INPUTS, ItemTables, fuse
from engine.compile.inspect import inspect_network
from engine.compile.onnx import export_encoder
from engine.model.build import model_data
from engine.model.stars import Stars
from engine.runtime.sidecar import Bucket, sha256
from tests.compile import tensorrt_stand_in as stand_in
from tests.tiny import tiny_config, tiny_shop

SM, N_ITEMS, K_MAX = 80, 1000, 20
BUCKETS = [Bucket(1, 20), Bucket(4, 12)]
DTYPES = {"float16": "HALF", "float32": "FLOAT", "int32": "INT32", "int64": "INT64"}
ONNX = {"HALF": 10, "FLOAT": 1, "INT32": 6, "INT64": 7}
torch.manual_seed(0)
data = dataclasses.replace(model_data(tiny_shop()), n_event_types=3)
model = Stars(tiny_config(d_model=32).model, data).eval()
tables = ItemTables(
    np.zeros((N_ITEMS, 32), np.float32), np.zeros((N_ITEMS, 8), np.float32),
    np.zeros(N_ITEMS, np.float32),
)
path = Path(tempfile.mkdtemp()) / "encode.onnx"
export_encoder(model, path, "fp16")
fused = fuse(path.read_bytes(), tables, K_MAX)
made = {layer.name: layer for layer in fused_layers(fused.shapes, BUCKETS, SM)}

def described(tensor):
    return [list(tensor.shape), DTYPES[str(tensor.dtype).removeprefix("torch.")]]

def cut(i, bucket):
    graph = onnx.ModelProto.FromString(fused.graph.SerializeToString())
    parts = graph.graph
    for value in parts.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_param"):
                dim.dim_value = bucket[axis]
    plugins = [node for node in parts.node if node.domain == DOMAIN]
    outputs, weights = set(), {weight.name for weight in parts.initializer}
    for node in plugins:
        layer = made[node.op_type]
        launch = layer.launches[i]
        for name, tensor in zip(layer.plugin.outputs, node.output, strict=True):
            shape, kind = described(launch.arguments[name])
            parts.input.append(helper.make_tensor_value_info(tensor, ONNX[kind], shape))
            outputs.add(tensor)
        parts.node.remove(node)
    read = {name for node in plugins for name in node.input}
    given = {value.name for value in parts.input}
    probes = sorted(read - weights - outputs - given)
    inferred = onnx.shape_inference.infer_shapes(graph).graph.value_info
    types = {value.name: value for value in inferred}
    parts.output.extend(types[name] for name in probes)
    known = {w.name: [list(w.dims), {v: k for k, v in ONNX.items()}[w.data_type]]
             for w in parts.initializer}
    return graph, plugins, known

result = {"kernels": {}, "reports": []}
with stand_in.tensorrt_plugin() as trtp:
    for layer in made.values():
        register(trtp, DTYPES, layer)
    for i, bucket in enumerate(BUCKETS):
        graph, plugins, known = cut(i, bucket)
        logger = rtx.Logger(rtx.Logger.ERROR)
        builder = rtx.Builder(logger)
        network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = rtx.OnnxParser(network, logger)
        assert parser.parse(graph.SerializeToString()), parser.get_error(0)
        for j in range(network.num_inputs):
            tensor = network.get_input(j)
            known[tensor.name] = [list(tensor.shape), tensor.dtype.name]
        for j in range(network.num_outputs):
            tensor = network.get_output(j)
            known[tensor.name] = [list(tensor.shape), tensor.dtype.name]
        report = inspect_network(network)
        report.check("fp16")
        result["reports"].append({"inputs": report.inputs, "outputs": report.outputs})
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(rtx.ComputeCapability.SM80, 0)
        result["built"] = builder.build_serialized_network(network, config) is not None
        for node in plugins:
            layer, launch = made[node.op_type], made[node.op_type].launches[i]
            tensors = [stand_in.ITensor(tuple(known[n][0]), known[n][1]) for n in node.input]
            started = stand_in.parse_plugin(node, tensors, [t.shape for t in tensors])
            result["kernels"][f"{node.op_type} {i}"] = {
                "network": [known[name] for name in node.input],
                "kernel": [described(launch.arguments[name]) for name in layer.plugin.inputs],
                "given": [known[name] for name in node.output],
                "made": [list(pair) for pair in zip(started.outputs, started.output_types)],
                "grid": started.grid, "launched": (*launch.grid, 1, 1)[:3],
                "ptx": started.ptx == layer.plugin.ptx.encode(),
            }
from types import SimpleNamespace
from engine.compile.fused import build_fused_plan
from tests.compile.test_tensorrt import recorded

trt = recorded({"ids": (-1, -1), "mask": (-1, 32)})
trt.DataType = SimpleNamespace(BF16="BF16", **{name: name for name in DTYPES.values()})
with stand_in.tensorrt_plugin() as trtp:
    plan = build_fused_plan(
        trt, trtp, path.read_bytes(), tables, K_MAX, "fp16", BUCKETS, sm=SM
    )
    parsed = onnx.ModelProto.FromString(trt.OnnxParser.return_value.parse.call_args.args[0])
    registered = sorted(name for name, _, space in sys.modules["tensorrt"].registry.creators)
result["plan"] = {
    "sidecar": plan.sidecar.model_dump(), "registered": registered,
    "plugins": sorted(n.op_type for n in parsed.graph.node if n.domain == DOMAIN),
    "graph": sha256(path.read_bytes()), "tables": tables.sha256(),
}
print(json.dumps(result))
"""
NAMES = ("token_assembly", "pooled_attention", "score_topk_scan", "score_topk_merge")


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: nothing was parsed")
    if not stand_in.available():
        pytest.skip("the bindings wheel of TensorRT is not installed: its plugin layer was not run")
    return run_compiled(SCRIPT)


@pytest.mark.parametrize("bucket", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_a_plugin_gets_and_gives_what_its_kernel_was_launched_with(
    result: dict[str, Any], name: str, bucket: int
) -> None:
    kernel = result["kernels"][f"{name} {bucket}"]
    assert kernel["network"] == kernel["kernel"], "types and shapes, input for input"
    assert kernel["made"] == kernel["given"], "what the layers behind it read"
    assert kernel["grid"] == kernel["launched"]
    assert kernel["ptx"]


def test_the_network_around_them_is_in_half_precision_and_builds(result: dict[str, Any]) -> None:
    assert result["built"]
    for report in result["reports"]:
        inputs = {k: v for k, v in report["inputs"].items() if not k.startswith("stars/")}
        floats = ("signals", "user_numeric", "user_known", "delta")
        assert inputs.pop("ids") == inputs.pop("mask") == "INT32"
        assert {inputs[name] for name in floats} == {"FLOAT"}
        assert {kind for name, kind in inputs.items() if name not in floats} == {"INT32"}
        outputs = {k: v for k, v in report["outputs"].items() if "/" not in k}
        assert {outputs[name] for name in ("h_next", "h_gen", "scores")} == {"FLOAT"}
        assert outputs["items"] == "INT64"


def test_the_plan_is_built_from_it_and_the_sidecar_says_what_it_holds(
    result: dict[str, Any],
) -> None:
    plan = result["plan"]
    assert plan["registered"] == plan["plugins"] == sorted(NAMES), "before the graph is parsed"
    sidecar = plan["sidecar"]
    assert (sidecar["k_max"], sidecar["ptx_version"], sidecar["sm"]) == (20, 83, [80])
    assert (sidecar["graph_sha256"], sidecar["tables_sha256"]) == (plan["graph"], plan["tables"])
    assert sidecar["buckets"] == [[1, 20], [4, 12]]
