"""OpenVINO against the same small graphs as ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from engine.errors import BackendUnavailable, BundleError
from engine.runtime.openvino import OpenVinoEncoder
from engine.runtime.sidecar import Bucket
from tests.runtime.graphs import inputs, write_graph

FIXED = (Bucket(2, 3),)


@pytest.mark.parametrize(("batch", "length"), [(2, 3), (1, 1), (1, 7), (3, 2), (5, 1)])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_fixed_and_other_shapes(tmp_path: Path, batch: int, length: int, kind: int) -> None:
    path = write_graph(tmp_path / "encode.onnx", rows_type=kind)
    encoder = OpenVinoEncoder(path, 2, FIXED)
    given = inputs(batch, length)  # small integers: exact in every type
    h_next, h_gen = encoder.encode(given)
    assert h_next.dtype == np.float32
    np.testing.assert_array_equal(h_next, given["rows"].sum(axis=1) + given["length"][:, None])
    np.testing.assert_array_equal(h_gen, -h_next)


def test_answers_are_the_callers(tmp_path: Path) -> None:
    """A later call leaves the answers of an earlier one alone."""
    encoder = OpenVinoEncoder(write_graph(tmp_path / "encode.onnx"), 1, FIXED)
    first, _ = encoder.encode(inputs(2, 3))
    before = first.copy()
    other = inputs(2, 3)
    other["rows"] += 1
    encoder.encode(other)
    np.testing.assert_array_equal(first, before)


def test_exact_keeps_fp32(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "encode.onnx")
    given = inputs(3, 5)
    given["rows"] = np.random.default_rng(0).standard_normal((3, 5, 3)).astype(np.float32)
    h_next, _ = OpenVinoEncoder(path, 1, (), exact=True).encode(given)
    expected = given["rows"].sum(axis=1) + given["length"][:, None]
    np.testing.assert_allclose(h_next, expected, rtol=1e-6)


def test_a_wrong_batch(tmp_path: Path) -> None:
    encoder = OpenVinoEncoder(write_graph(tmp_path / "encode.onnx"), 1, FIXED)
    with pytest.raises(ValueError, match=r"rows: expected shape \[2, 3, 3\], got \[2, 3, 4\]"):
        encoder.encode(inputs(2, 3) | {"rows": np.zeros((2, 3, 4), np.float32)})


@pytest.mark.parametrize("content", [b"", b"no graph", None], ids=["empty", "junk", "missing"])
def test_a_file_that_is_no_graph(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "encode.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match=r"encode\.onnx: expected a graph that openvino runs"):
        OpenVinoEncoder(path)


def test_other_inputs_and_outputs(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "encode.onnx", ("h_next", "h_other"))
    with pytest.raises(BundleError, match=r"\('h_next', 'h_gen'\), got \('h_next', 'h_other'\)"):
        OpenVinoEncoder(path)
    graph = onnx.load(write_graph(path))
    graph.graph.input[0].name = graph.graph.node[0].input[0] = "lines"
    onnx.save(graph, path)
    with pytest.raises(BundleError, match="runs, got input lines: expected one of"):
        OpenVinoEncoder(path)


def test_without_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(BackendUnavailable, match="expected the package openvino, got none"):
        OpenVinoEncoder(write_graph(tmp_path / "encode.onnx"))
