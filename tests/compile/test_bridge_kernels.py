"""The serving kernels, compiled and handed to TensorRT's plugin layer, at the paper's shapes."""

from typing import Any

import pytest

from tests.compile import tensorrt_stand_in as stand_in
from tests.compiled import run_compiled

SCRIPT = """
import dataclasses, json, sys
import torch
from engine.compile.bridge import register
from kernels import layers
from tests.compile import tensorrt_stand_in as stand_in
from tests.compile.tensorrt_stand_in import ITensor

SM = 90
DTYPES = {"float16": "HALF", "float32": "FLOAT", "int32": "INT32", "int64": "INT64"}
token = layers.token_assembly(
    [(1, 200), (8, 200)], SM,
    n_items=100_000, d_model=768, n_table=305, n_codes=6, n_signals=4,
)
attention = layers.pooled_attention(
    [(1, 202), (8, 202)], SM, heads=8, head_dim=96, n_day_buckets=11
)
scan, merge = layers.score_topk([1, 8], SM, n_items=100_000, dim=128, k=100)
half, index = "HALF", "INT32"
calls = {
    token: [
        ITensor((100_000, 768), half), ITensor((-1, 200), index), ITensor((-1, 768), half),
        ITensor((305, 768), half), ITensor((-1, 200, 6), index), ITensor((-1, 200, 4), half),
        ITensor((4, 768), half), ITensor((768,), half), ITensor((-1,), index),
    ],
    attention: [
        ITensor((-1, 2, 8, 96), half), *[ITensor((-1, 202, 8, 96), half)] * 2,
        ITensor((-1, 2), index), ITensor((8, 11), half), ITensor((-1, 2), index),
        ITensor((-1, 202), index),
    ],
    scan: [
        ITensor((-1, 128), half), ITensor((100_000, 128), half), ITensor((100_000,), "FLOAT"),
        ITensor((-1, 3125), index),
    ],
}
calls[merge] = [*calls[scan], ITensor((-1, 264, 8), "INT64")]
result = {}
with stand_in.tensorrt_plugin() as trtp:
    for layer, tensors in calls.items():
        plugin_id = register(trtp, DTYPES, layer)
        for batch in (1, 8):
            at = [tuple(batch if size < 0 else size for size in t.shape) for t in tensors]
            started = dataclasses.asdict(stand_in.add_plugin(trtp, plugin_id, tensors, at))
            started["ptx"] = started["ptx"] == layer.plugin.ptx.encode()
            result[f"{layer.name} {batch}"] = started
from engine.compile.bridge import KernelShapes, bridge_report
from engine.config import load_config
from engine.runtime.sidecar import Bucket

for preset, k in (("small", 100), ("paper", 500)):
    shapes = KernelShapes.of(load_config(preset).model, 50_000, 3, 0, k)
    buckets = [Bucket(b, n) for b in (1, 8, 32) for n in (50, 200)]
    result[f"report {preset} {k}"] = bridge_report(shapes, buckets, [80, 120])
wide = dataclasses.replace(shapes, dtype=torch.float32)
result["report refused"] = bridge_report(wide, buckets, [80])
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def started() -> dict[str, Any]:
    if not stand_in.available():
        pytest.skip("the bindings wheel of TensorRT is not installed: its plugin layer was not run")
    return run_compiled(SCRIPT)


@pytest.mark.parametrize("batch", [1, 8])
def test_token_assembly_as_a_layer(started: dict[str, Any], batch: int) -> None:
    layer = started[f"token_assembly {batch}"]
    assert layer["ptx"]
    assert layer["outputs"] == [[batch, 201, 768], [batch, 768], [batch]]
    assert layer["output_types"] == ["HALF", "HALF", "INT32"]
    tokens = batch * 201
    assert layer["extra"] == [tokens, batch, batch, 0, 201]
    assert layer["grid"] == [-(-tokens // 8) + -(-batch // 8), 1, 1]
    assert layer["shared_bytes"] <= 48 * 1024


@pytest.mark.parametrize("batch", [1, 8])
def test_pooled_attention_as_a_layer(started: dict[str, Any], batch: int) -> None:
    layer = started[f"pooled_attention {batch}"]
    assert layer["ptx"]
    assert layer["outputs"] == [[batch, 2, 8, 96]]
    assert layer["grid"] == [batch, 8, 1]
    assert layer["shared_bytes"] <= 48 * 1024


@pytest.mark.parametrize("batch", [1, 8])
def test_score_topk_as_two_chained_layers(started: dict[str, Any], batch: int) -> None:
    scan, merge = started[f"score_topk_scan {batch}"], started[f"score_topk_merge {batch}"]
    assert scan["outputs"] == [[batch, 264, 8]], "what the second layer takes"
    assert merge["outputs"] == [[batch, 100], [batch, 100]]
    assert merge["output_types"] == ["FLOAT", "INT64"]
    assert scan["grid"] == [1, 264, 1]
    assert merge["grid"] == [batch, 1, 1]
    assert scan["extra"] == [batch, 100_000, 3125, 264]
    assert max(scan["shared_bytes"], merge["shared_bytes"]) <= 48 * 1024


@pytest.mark.parametrize("case", ["small 100", "paper 500"])
def test_the_report_names_every_kernel_and_card(started: dict[str, Any], case: str) -> None:
    report = started[f"report {case}"]
    names = ["token_assembly", "pooled_attention", "score_topk_scan", "score_topk_merge"]
    assert [(entry["kernel"], entry["sm"]) for entry in report] == [
        (name, sm) for sm in (80, 120) for name in names
    ]
    assert {entry["ptx_version"] for entry in report} == {83, 87}
    for entry in report:
        assert entry["assembled"]
        assert entry["refused"] is None
        assert {"hidden_unread", "shape_independent", "shared_memory"} < set(entry["rules"])
        assert entry["rules"][-2:] == ["assembles", "expressions"]


def test_the_report_says_which_rule_is_broken(started: dict[str, Any]) -> None:
    (entry,) = started["report refused"]
    assert (entry["kernel"], entry["sm"], entry["assembled"]) == ("attention_forward", 80, False)
    assert "plugin attention_forward: shared_memory: " in entry["refused"]
