"""Every model configuration against Triton Server's own schema, the encoder's against the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2

from engine.compile.onnx import export_encoder
from engine.compile.server_model import MODEL, server_config, write_server_model
from engine.errors import CompileError, ConfigError
from engine.model.build import model_data
from engine.model.stars import Stars
from engine.runtime.inputs import OUTPUTS
from engine.runtime.sidecar import Bucket, Machine, Sidecar, read_plan, sha256
from engine.serving.latency import NULL_REPOSITORY
from engine.serving.plan_encoder import PlanEncoder, read_config
from engine.serving.server import MODEL_REPOSITORY
from tests.tiny import tiny_config, tiny_shop

BUCKETS = (Bucket(1, 50), Bucket(8, 50), Bucket(32, 200))
FILES = sorted(p for r in (MODEL_REPOSITORY, NULL_REPOSITORY) for p in r.rglob("*.pbtxt"))
KINDS = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.INT32: "TYPE_INT32",
}


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    torch.manual_seed(0)
    model = Stars(tiny_config().model, model_data(tiny_shop()))
    folder = tmp_path_factory.mktemp("graphs")
    made = {}
    for precision in ("fp16", "bf16"):
        export_encoder(model, folder / precision, precision)
        made[precision] = (folder / precision).read_bytes()
    return made


@pytest.fixture(scope="module")
def config(graphs: dict[str, bytes]) -> Any:
    return server_config(graphs["fp16"], BUCKETS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_configuration_has_the_servers_schema(path: Path) -> None:
    config = read_config(path)
    assert config.backend == "python"
    assert all(value.name and value.data_type and value.dims for value in config.input)
    assert config.output


def test_a_misspelt_field_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text((MODEL_REPOSITORY / "stars" / "config.pbtxt").read_text() + "\nbackendd: 'x'")
    with pytest.raises(ConfigError, match=r'config\.pbtxt: .* no field named "backendd"'):
        read_config(path)


def test_clients_see_the_same_model_on_a_gpu() -> None:
    folder = MODEL_REPOSITORY / "stars"
    cpu, gpu = read_config(folder / "config.pbtxt"), read_config(folder / "configs" / "gpu.pbtxt")
    for field in ("input", "output", "max_batch_size", "dynamic_batching", "backend"):
        assert getattr(cpu, field) == getattr(gpu, field), field
    assert gpu.parameters["encoder"].string_value == MODEL
    assert "encoder" not in cpu.parameters
    del gpu.parameters["encoder"]
    assert cpu.parameters == gpu.parameters


def test_the_encoders_tensors_are_the_graphs(config: Any, graphs: dict[str, bytes]) -> None:
    graph = onnx.ModelProto.FromString(graphs["fp16"]).graph
    for ours, theirs in ((config.input, graph.input), (config.output, graph.output)):
        described = {
            v.name: (model_config_pb2.DataType.Name(v.data_type), list(v.dims)) for v in ours
        }
        expected = {
            v.name: (
                KINDS[v.type.tensor_type.elem_type],
                [d.dim_value or -1 for d in v.type.tensor_type.shape.dim],
            )
            for v in theirs
        }
        assert described == expected
    assert {value.name for value in config.output} == set(OUTPUTS)
    assert described["h_next"] == ("TYPE_FP32", [-1, 8])
    rows = next(value for value in config.input if value.name == "rows")
    assert (rows.data_type, list(rows.dims)) == (model_config_pb2.TYPE_FP16, [-1, -1, 16])


def test_each_bucket_has_a_profile_a_cuda_graph_and_a_warm_up(config: Any) -> None:
    (group,) = config.instance_group
    assert group.kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert list(group.profile) == ["0", "1", "2"]
    cuda = config.optimization.cuda
    assert cuda.graphs
    names = {value.name for value in config.input}
    for bucket, spec, warm_up in zip(BUCKETS, cuda.graph_spec, config.model_warmup, strict=True):
        assert set(spec.input) == set(warm_up.inputs) == names
        assert list(spec.input["rows"].dim) == [*bucket, 16]
        assert list(spec.input["length"].dim) == [bucket.batch]
        for name in names:
            assert list(warm_up.inputs[name].dims) == list(spec.input[name].dim)
            assert warm_up.inputs[name].zero_data
        assert spec.batch_size == warm_up.batch_size == 0, "as max_batch_size 0 asks"


def test_the_server_joins_no_requests_to_shapes_without_a_profile(config: Any) -> None:
    assert config.platform == "tensorrt_plan"
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert config.version_policy.latest.num_versions == 1


def sidecar(graph: bytes, **changes: Any) -> Sidecar:
    given = {
        "target": "tensorrt", "version": "10.13.3.9", "version_compatible": False, "sm": (90,),
        "driver_floor": 580, "ptx_version": None, "precision": "fp16", "buckets": BUCKETS,
        "graph_sha256": sha256(graph), "plan_sha256": sha256(b"plan"),
    }  # fmt: skip
    return Sidecar(**given | changes)


def test_a_plan_becomes_a_model(tmp_path: Path, graphs: dict[str, bytes], config: Any) -> None:
    graph = graphs["fp16"]
    folder = write_server_model(tmp_path, graph, b"plan", sidecar(graph))
    assert folder == tmp_path / MODEL
    assert read_config(folder / "config.pbtxt") == config
    machine = Machine("10.13.3.9", 90, 580)
    assert read_plan(folder / "1" / "model.plan", "tensorrt", machine)[0] == b"plan"
    assert PlanEncoder(None, folder)._buckets == list(BUCKETS)


def test_what_the_backend_does_not_serve(tmp_path: Path, graphs: dict[str, bytes]) -> None:
    graph = graphs["fp16"]
    for changes, text in (
        ({"target": "tensorrt-rtx"}, "expected a plain plan of tensorrt, got tensorrt-rtx"),
        ({"k_max": 9}, "expected a plain plan of tensorrt, got one with the search inside"),
        ({"graph_sha256": "0" * 64}, "expected the graph that the plan was built from"),
    ):
        with pytest.raises(CompileError, match=f"stars_encoder: {text}"):
            write_server_model(tmp_path, graph, b"plan", sidecar(graph, **changes))
    with pytest.raises(CompileError, match=r"input rows: expected fp32, .*, got BFLOAT16"):
        server_config(graphs["bf16"], BUCKETS)
