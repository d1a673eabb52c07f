"""The CPU runtime against small graphs with the encode graph's outputs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from engine.errors import BackendUnavailable, BundleError
from engine.runtime.onnx_cpu import OnnxEncoder
from tests.runtime.graphs import inputs, write_graph


@pytest.fixture
def encoder(tmp_path: Path) -> OnnxEncoder:
    return OnnxEncoder(write_graph(tmp_path / "encode.onnx"))


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 7), (3, 2), (5, 0), (0, 4)])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("length_type", [TensorProto.INT32, TensorProto.INT64])
def test_any_batch_and_length(
    tmp_path: Path, batch: int, length: int, threads: int, length_type: int
) -> None:
    path = write_graph(tmp_path / "encode.onnx", length_type=length_type)
    encoder = OnnxEncoder(path, threads)
    given = inputs(batch, length)
    h_next, h_gen = encoder.encode(given)
    assert h_next.dtype == np.float32
    np.testing.assert_array_equal(h_next, given["rows"].sum(axis=1) + given["length"][:, None])
    np.testing.assert_array_equal(h_gen, -h_next)


def test_names(encoder: OnnxEncoder) -> None:
    with pytest.raises(ValueError, match=r"expected the inputs \['day', .*, got \['rows'\]"):
        encoder.encode({"rows": inputs(1, 1)["rows"]})
    with pytest.raises(ValueError, match=r"got \['day', 'event_type', 'extra', "):
        encoder.encode(inputs(1, 1) | {"extra": np.zeros(1)})


def test_kinds_of_numbers(encoder: OnnxEncoder) -> None:
    given = inputs(2, 2)
    half = encoder.encode(given | {"rows": given["rows"].astype(np.float16)})
    np.testing.assert_array_equal(half, encoder.encode(given))
    with pytest.raises(ValueError, match="encode rows: expected floats, got int64"):
        encoder.encode(given | {"rows": given["rows"].astype(np.int64)})
    with pytest.raises(ValueError, match="encode hour: expected integers, got float64"):
        encoder.encode(given | {"hour": given["hour"].astype(np.float64)})


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"rows": np.zeros((2, 4), np.float32)}, r"rows: expected shape \[2, 4, 3\], got \[2, 4\]"),
        (
            {"rows": np.zeros((2, 4, 5), np.float32)},
            r"rows: expected shape \[2, 4, 3\], got \[2, 4, 5\]",
        ),
        ({"length": np.zeros(3, int)}, r"length: expected shape \[2\], got \[3\]"),
        ({"hour": np.zeros((2, 3), int)}, r"hour: expected shape \[2, 4\], got \[2, 3\]"),
        (
            {"signals": np.zeros((2, 4, 1), np.float32)},
            r"signals: expected shape \[2, 4, 0\], got \[2, 4, 1\]",
        ),
    ],
)
def test_shapes(encoder: OnnxEncoder, changed: dict[str, NDArray[Any]], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        encoder.encode(inputs(2, 4) | changed)


def test_an_input_that_no_batch_holds(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "encode.onnx", length_type=TensorProto.UINT8)
    with pytest.raises(BundleError, match=r"onnx: input length: expected .*, got tensor\(uint8\)"):
        OnnxEncoder(path)
    path = write_graph(tmp_path / "encode.onnx", width="D")
    with pytest.raises(
        BundleError, match=r"onnx: input rows: expected a width, got \['B', 'L', 'D'"
    ):
        OnnxEncoder(path)


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
