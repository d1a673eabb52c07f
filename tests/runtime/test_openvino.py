"""OpenVINO against the same small graphs as ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engine.errors import BackendUnavailable, BundleError
from engine.runtime.inputs import OUTPUTS
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


def attention(path: Path, heads: int) -> Path:
    """h_next and h_gen: the first query of attention with a transposition on either side."""
    n_heads, size = heads, 16
    split = [0, -1, n_heads, size]
    nodes = [
        node
        for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3]))
        for node in (
            helper.make_node("Reshape", ["rows", "split"], [f"{name}_split"]),
            helper.make_node("Transpose", [f"{name}_split"], [name], perm=order),
        )
    ]
    nodes += [
        helper.make_node("MatMul", ["q", "k"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["joined"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["joined", "flat"], ["all"]),
        helper.make_node("Gather", ["all", "first"], ["h_next"], axis=1),
        helper.make_node("Cast", ["length"], ["unused"], to=TensorProto.FLOAT),
        helper.make_node("Neg", ["h_next"], ["h_gen"]),
    ]
    width = n_heads * size
    constants = {"split": split, "flat": [0, -1, width], "first": 0}
    graph = helper.make_graph(
        nodes,
        "attention",
        [
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["B", "L", width]),
            helper.make_tensor_value_info("length", TensorProto.INT32, ["B"]),
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", width]) for n in OUTPUTS],
        [numpy_helper.from_array(np.array(v, np.int64), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def test_a_fixed_shape_is_not_taken_on_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = attention(tmp_path / "encode.onnx", heads=2)
    OpenVinoEncoder(path, 1, [Bucket(1, 5)])
    monkeypatch.setattr("engine.runtime.openvino._SAME", 1.1)
    text = r"fixed shape \(1, 5\): expected h_next of the dynamic graph, got cosine [01]\.\d+"
    with pytest.raises(BundleError, match=text):
        OpenVinoEncoder(path, 1, [Bucket(1, 5)])


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


def look_up(path: Path, rows: int, length: int) -> Path:
    """h_next [B, rows]: sums over all pairs of a look-up by column, as the encode graph's bias is.

    Column 0 holds 0 and column 1 holds 1, so that the sum counts the users' days of 1.
    """
    columns = numpy_helper.from_array(np.tile(np.array([0, 1], np.float32), (rows, 1)), "table")
    shape = numpy_helper.from_array(np.array([0, rows, -1]), "flat")
    nodes = [
        helper.make_node("Unsqueeze", ["day", "two"], ["tall"]),
        helper.make_node("Expand", ["tall", "pairs"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["bias"], axis=1),
        helper.make_node("Transpose", ["bias"], ["by_user"], perm=[1, 0, 2, 3]),
        helper.make_node("Reshape", ["by_user", "flat"], ["listed"]),
        helper.make_node("ReduceSum", ["listed", "last"], ["h_next"], keepdims=0),
        helper.make_node("Neg", ["h_next"], ["h_gen"]),
    ]
    initializers = [columns, shape, numpy_helper.from_array(np.array([2]), "two")]
    initializers += [
        numpy_helper.from_array(np.array([2]), "last"),
        numpy_helper.from_array(np.array([1, 1, length]), "pairs"),
    ]
    graph = helper.make_graph(
        nodes,
        "encode",
        [
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["B", "L", 3]),
            helper.make_tensor_value_info("day", TensorProto.INT32, ["B", "L"]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", rows]) for name in OUTPUTS],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def test_a_large_batch_is_looked_up_in_parts(tmp_path: Path) -> None:
    """More than 2^25 answers, of which OpenVINO leaves the last as the memory was."""
    n_users, length, rows = 56, 200, 16
    given = inputs(n_users, length)
    given["day"] = np.zeros((n_users, length), np.int64)
    given["day"][:, -1] = 1
    encoder = OpenVinoEncoder(look_up(tmp_path / "encode.onnx", rows, length), 2, (), exact=True)
    for _ in range(2):  # what lay in the memory may be right by chance
        h_next, h_gen = encoder.encode(given)
        assert h_next.shape == (n_users, rows)
        np.testing.assert_array_equal(h_next, np.full((n_users, rows), length))
        np.testing.assert_array_equal(h_gen, -h_next)
        encoder.encode(given | {"day": np.zeros_like(given["day"])})
