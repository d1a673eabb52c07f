"""A small graph with the encode graph's inputs and outputs, and batches for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

D = 3


def write_graph(
    path: Path,
    outputs: tuple[str, str] = ("h_next", "h_gen"),
    length_type: int = TensorProto.INT32,
    width: int | str = D,
    rows_type: int = TensorProto.FLOAT,
) -> Path:
    """h_next = the sum of rows over the length, plus length; h_gen = its negative."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["rows"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["wide", "axes"], ["sum"], keepdims=0),
            helper.make_node("Cast", ["length"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["number", "axes"], ["factor"]),
            helper.make_node("Add", ["sum", "factor"], [outputs[0]]),
            helper.make_node("Neg", [outputs[0]], [outputs[1]]),
        ],
        "encode",
        [
            helper.make_tensor_value_info("rows", rows_type, ["B", "L", width]),
            helper.make_tensor_value_info("length", length_type, ["B"]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", width]) for name in outputs],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def inputs(batch: int, length: int) -> dict[str, NDArray[Any]]:
    """A whole batch; all that the graph above does not read has width 0 or is left alone."""
    rows = np.arange(batch * length * D, dtype=np.float32).reshape(batch, length, D)
    fields = ("event_type", "hour", "weekday", "week", "day", "recency")
    return {
        "rows": rows,
        **{name: np.zeros((batch, length), np.int64) for name in fields},
        "signals": np.zeros((batch, length, 0), np.float32),
        "length": np.arange(batch),
        "user_categorical": np.zeros((batch, 0), np.int64),
        "user_numeric": np.zeros((batch, 0), np.float32),
        "user_known": np.zeros((batch, 0), np.float32),
    }
