"""A plan as a model of Triton Server's TensorRT backend: its configuration, from the graph."""

import json
from pathlib import Path
from typing import Any

import onnx
from google.protobuf import text_format
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2

from engine.errors import CompileError
from engine.runtime.sidecar import Bucket, Sidecar, sha256, write_plan
from engine.serving.plan_encoder import BUCKETS

MODEL = "stars_encoder"
# bf16 has no numpy type that the Python backend could send.
_KINDS = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.INT32: "TYPE_INT32",
}
_HEADER = "# Written with the plan beside it; what it was built for is in model.plan.json.\n"


def write_server_model(repository: Path, graph: bytes, content: bytes, sidecar: Sidecar) -> Path:
    """Writes `stars_encoder` into a model repository: configuration, plan and sidecar.

    Args:
        graph: the ONNX file that the plan was built from.
        content, sidecar: of the plan.
    Returns:
        The model's folder.
    Raises:
        CompileError: a plan that this backend does not serve; says why.
    """
    if sidecar.target != "tensorrt" or sidecar.k_max is not None:
        got = sidecar.target if sidecar.k_max is None else "one with the search inside"
        raise CompileError(f"{MODEL}: expected a plain plan of tensorrt, got {got}")
    if sha256(graph) != sidecar.graph_sha256:
        raise CompileError(f"{MODEL}: expected the graph that the plan was built from")
    config = server_config(graph, sidecar.buckets)
    folder = repository / MODEL
    (folder / "1").mkdir(parents=True, exist_ok=True)
    text = text_format.MessageToString(config)
    (folder / "config.pbtxt").write_text(_HEADER + text, encoding="utf-8")
    write_plan(folder / "1" / "model.plan", content, sidecar)
    return folder


def server_config(graph: bytes, buckets: tuple[Bucket, ...]) -> Any:
    """The ModelConfig of a graph's plan, one execution a request.

    max_batch_size is 0, so that the server never joins requests: a plan runs the shapes of its
    buckets and no others, and the front model, which batches, asks for just these.

    Raises:
        CompileError: an input of a type that cannot be sent.
    """
    model = onnx.ModelProto.FromString(graph).graph
    config = model_config_pb2.ModelConfig(name=MODEL, platform="tensorrt_plan", max_batch_size=0)
    config.version_policy.latest.num_versions = 1
    for value, made in ((v, config.input.add()) for v in model.input):
        kind = value.type.tensor_type.elem_type
        if kind not in _KINDS:
            raise CompileError(
                f"{MODEL}: input {value.name}: expected fp32, fp16 or int32, "
                f"got {TensorProto.DataType.Name(kind)}"
            )
        _describe(value, made, _KINDS[kind])
    for value, made in ((v, config.output.add()) for v in model.output):
        _describe(value, made, _KINDS[value.type.tensor_type.elem_type])
    profiles = [str(i) for i in range(len(buckets))]
    config.instance_group.add(
        kind=model_config_pb2.ModelInstanceGroup.KIND_GPU, count=1, profile=profiles
    )
    cuda = config.optimization.cuda
    cuda.graphs = cuda.busy_wait_events = cuda.output_copy_stream = True
    for bucket in buckets:
        spec = cuda.graph_spec.add()
        warm_up = config.model_warmup.add(name=f"{bucket.batch}x{bucket.length}")
        for value in config.input:
            fixed = [n if n >= 0 else bucket[axis] for axis, n in enumerate(value.dims)]
            spec.input[value.name].dim.extend(fixed)
            given = warm_up.inputs[value.name]
            given.data_type, given.zero_data = value.data_type, True
            given.dims.extend(fixed)
    config.parameters[BUCKETS].string_value = json.dumps([list(b) for b in buckets])
    return config


def _describe(value: onnx.ValueInfoProto, made: Any, kind: str) -> None:
    """Name, type and dims of a graph's input or output; what has no size is -1."""
    made.name = value.name
    made.data_type = model_config_pb2.DataType.Value(kind)
    dims = value.type.tensor_type.shape.dim
    made.dims.extend(d.dim_value if d.HasField("dim_value") else -1 for d in dims)
