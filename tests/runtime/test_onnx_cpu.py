"""The CPU runtime against small graphs with the encode graph's outputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from engine.errors import BackendUnavailable, BundleError
from engine.runtime.onnx_cpu import OnnxEncoder

D = 3


def write_graph(path: Path, outputs: tuple[str, str] = ("h_next", "h_gen")) -> Path:
    """h_next = the sum of rows over the length, plus scale; h_gen = its negative."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["rows", "axes"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["scale"], ["factor"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["sum", "factor"], [outputs[0]]),
            helper.make_node("Neg", [outputs[0]], [outputs[1]]),
        ],
        "encode",
        [
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["B", "L", D]),
            helper.make_tensor_value_info("scale", TensorProto.INT64, ["B", 1]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", D]) for name in outputs],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def encoder(tmp_path: Path) -> OnnxEncoder:
    return OnnxEncoder(write_graph(tmp_path / "encode.onnx"))


def inputs(batch: int, length: int) -> dict[str, NDArray[Any]]:
    rows = np.arange(batch * length * D, dtype=np.float32).reshape(batch, length, D)
    return {"rows": rows, "scale": np.arange(batch)[:, None]}


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 7), (3, 2), (5, 0), (0, 4)])
@pytest.mark.parametrize("threads", [1, 2])
def test_any_batch_and_length(tmp_path: Path, batch: int, length: int, threads: int) -> None:
    encoder = OnnxEncoder(write_graph(tmp_path / "encode.onnx"), threads)
    given = inputs(batch, length)
    h_next, h_gen = encoder.encode(given)
    assert h_next.dtype == np.float32
    np.testing.assert_array_equal(h_next, given["rows"].sum(axis=1) + given["scale"])
    np.testing.assert_array_equal(h_gen, -h_next)


def test_names(encoder: OnnxEncoder) -> None:
    with pytest.raises(ValueError, match=r"expected the inputs \['rows', 'scale'\], got \['rows'"):
        encoder.encode({"rows": inputs(1, 1)["rows"]})
    with pytest.raises(ValueError, match=r"got \['extra', 'rows', 'scale'\]"):
        encoder.encode(inputs(1, 1) | {"extra": np.zeros(1)})


def test_dtypes(encoder: OnnxEncoder) -> None:
    given = inputs(2, 2)
    with pytest.raises(ValueError, match="encode rows: expected dtype float32, got float64"):
        encoder.encode(given | {"rows": given["rows"].astype(np.float64)})
    with pytest.raises(ValueError, match="encode scale: expected dtype int64, got int32"):
        encoder.encode(given | {"scale": given["scale"].astype(np.int32)})


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"rows": np.zeros((2, 4), np.float32)}, r"rows: expected shape \[2, 4, 3\], got \[2, 4\]"),
        (
            {"rows": np.zeros((2, 4, 5), np.float32)},
            r"rows: expected shape \[2, 4, 3\], got \[2, 4, 5\]",
        ),
        ({"scale": np.zeros((3, 1), np.int64)}, r"scale: expected shape \[2, 1\], got \[3, 1\]"),
        ({"scale": np.zeros((2, 1, 1), np.int64)}, r"expected shape \[2, 1\], got \[2, 1, 1\]"),
    ],
)
def test_shapes(encoder: OnnxEncoder, changed: dict[str, NDArray[Any]], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        encoder.encode(inputs(2, 4) | changed)


@pytest.mark.parametrize("content", [b"", b"no graph", None], ids=["empty", "junk", "missing"])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "encode.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"encode\.onnx: expected an ONNX graph, got .*ONNXRun"):
        OnnxEncoder(path)


def test_other_outputs(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "encode.onnx", ("h_next", "h_other"))
    text = r"expected the outputs \('h_next', 'h_gen'\), got \('h_next', 'h_other'\)"
    with pytest.raises(BundleError, match=text):
        OnnxEncoder(path)


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match="expected the package onnxruntime, got none"):
        OnnxEncoder(write_graph(tmp_path / "encode.onnx"))
