"""The fused graph: `encode` with named parts replaced by kernels, and the exact search behind it.

The kernels stand in the graph as nodes of the domain `stars`. TensorRT's ONNX parser makes an
ahead-of-time plugin layer of each (`plugin_namespace`, `aot`), by what `bridge.register` has put
into its registry. Working on the ONNX file, before it is parsed, leaves no dead layer and no input
behind, and the result can be evaluated where TensorRT is not.

In:  ids [B, L] int32 in place of `rows`, the other inputs of `encode`, delta [B, d_serve] fp32 and
     mask [B, ceil(N / 32)] int32 as `engine.retrieval.mask` packs it.
Out: h_next and h_gen as `encode` gives them, scores [B, 2, K] fp32 and items [B, 2, K] int64: the
     best of h_next + δ, then of h_gen + δ, -inf and -1 where fewer qualify.

The item tables are constants of the graph: a refresh of the catalogue builds the plan anew.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from engine.errors import CompileError
from engine.features import DAY_BIAS_BUCKETS
from engine.ops import MAX_K
from engine.retrieval.mask import mask_words
from engine.runtime.inputs import OUTPUTS
from engine.runtime.sidecar import Bucket, KernelContent, PlanPrecision, sha256

from .bridge import N_VECTORS, KernelShapes, fused_layers, register
from .graph import FIELDS
from .surgery import GraphEditor
from .tensorrt import Plan, build_plan

DOMAIN = "stars"
SCAN = "scan"  # scope of the search's nodes, as `layers.0` is of a layer's
# Inputs of each node, by the names of the kernel's pointers and in their order.
NODE_INPUTS = {
    "token_assembly": (
        "rows_ptr", "index_ptr", "user_ptr", "table_ptr", "codes_ptr", "signals_ptr",
        "signal_weight_ptr", "read_out_ptr", "ends_ptr",
    ),
    "pooled_attention": (
        "query_ptr", "key_ptr", "value_ptr", "cut_ptr", "bias_table_ptr", "query_day_ptr",
        "key_day_ptr",
    ),
    "score_topk_scan": ("queries_ptr", "items_ptr", "bias_ptr", "mask_ptr"),
    "score_topk_merge": ("queries_ptr", "items_ptr", "bias_ptr", "mask_ptr", "lists_ptr"),
}  # fmt: skip
_DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
}
_PROTOBUF_LIMIT = 2**31 - 1
# The first difference in days of each bucket: the graph's table is by days, the kernel's by bucket.
_FIRST_DAYS = [0, *(1 << bit for bit in range(DAY_BIAS_BUCKETS - 1))]


@dataclass(frozen=True)
class ItemTables:
    """A catalogue as the plan holds it.

    Attributes:
        rows: [N, d_model] float32, Proj(v).
        candidates: [N, d_serve] float32, c.
        bias: [N] float32, b.
    """

    rows: NDArray[np.float32]
    candidates: NDArray[np.float32]
    bias: NDArray[np.float32]

    def sha256(self) -> str:
        """Hex digest over all three."""
        digest = hashlib.sha256()
        for array in (self.rows, self.candidates, self.bias):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Fused:
    """The fused graph and what its kernels are compiled for."""

    graph: onnx.ModelProto
    shapes: KernelShapes


def fuse(graph: bytes, tables: ItemTables, k_max: int) -> Fused:
    """The fused form of an exported `encode` graph.

    Args:
        graph: the ONNX file, as `export_encoder` or `quantize` makes it, pooled causally.
        tables: the catalogue's; rounded to the graph's dtype, but for the bias.
        k_max: answers a vector, 1 to 500.
    Raises:
        ValueError: tables that do not fit the graph or each other, k_max out of range.
        CompileError: a graph without the parts that are replaced, or too large for one file.
    """
    model = onnx.ModelProto.FromString(graph)
    surgery = _Surgery(model)
    _check(surgery, tables, k_max)
    cuts = surgery.assemble_tokens(tables.rows)
    surgery.pool(cuts)
    surgery.search(tables, k_max)
    surgery.finish()
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    if model.ByteSize() > _PROTOBUF_LIMIT:
        raise CompileError(
            f"fuse: expected a graph of at most {_PROTOBUF_LIMIT:,} bytes with its item tables, "
            f"got {model.ByteSize():,}: search this catalogue outside the plan"
        )
    shapes = KernelShapes(
        n_items=len(tables.rows),
        d_model=tables.rows.shape[1],
        heads=surgery.heads,
        d_serve=tables.candidates.shape[1],
        n_table=surgery.n_table,
        n_signals=surgery.n_signals,
        n_day_buckets=DAY_BIAS_BUCKETS if surgery.has_days else 0,
        k_max=k_max,
        dtype=_DTYPES[surgery.dtype],
    )
    return Fused(model, shapes)


def build_fused_plan(
    trt: Any,
    trtp: Any,
    graph: bytes,
    tables: ItemTables,
    k_max: int,
    precision: PlanPrecision,
    buckets: Sequence[Bucket],
    *,
    sm: int,
    half: PlanPrecision = "fp16",
    timing_cache: bytes = b"",
) -> Plan:
    """Builds the fused plan with TensorRT on the card that will run it; one a process.

    TensorRT's plugin registry keeps what was registered, and refuses the same name twice.

    Args:
        trt, trtp: the modules `tensorrt` and `tensorrt.plugin`.
        graph, tables, k_max: as in `fuse`.
        precision, buckets, half, timing_cache: as in `build_plan`.
        sm: of this card.
    Raises:
        ContractError: a kernel breaks a rule of ahead-of-time plugins; `rule` says which.
        ValueError, CompileError: as `fuse` and `build_plan` raise them.
    """
    fused = fuse(graph, tables, k_max)
    layers = fused_layers(fused.shapes, buckets, sm)
    dtypes = {
        "float16": trt.DataType.HALF, "bfloat16": trt.DataType.BF16, "float32": trt.DataType.FLOAT,
        "int32": trt.DataType.INT32, "int64": trt.DataType.INT64,
    }  # fmt: skip
    for layer in layers:
        expected = NODE_INPUTS[layer.name]
        if layer.plugin.inputs != expected[: len(layer.plugin.inputs)]:
            raise CompileError(
                f"plugin {layer.name}: expected the inputs {expected}, got {layer.plugin.inputs}"
            )
        register(trtp, dtypes, layer)
    content = KernelContent(
        graph_sha256=sha256(graph),
        tables_sha256=tables.sha256(),
        k_max=k_max,
        ptx_version=max(layer.plugin.ptx_version for layer in layers),
    )
    return build_plan(
        trt, "tensorrt", fused.graph.SerializeToString(), precision, buckets,
        sms=(sm,), half=half, timing_cache=timing_cache, kernels=content,
    )  # fmt: skip


class _Surgery(GraphEditor):
    """An encode graph on its way to the fused one; each step replaces one part of it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        if "rows" not in self.inputs:
            raise CompileError(f"fuse: expected an input rows, got {sorted(self.inputs)}")
        self.dtype: int = self.inputs["rows"].type.tensor_type.elem_type
        self.d_model: int = self.inputs["rows"].type.tensor_type.shape.dim[2].dim_value
        layers = [name.split(".")[1].split("/")[0] for name in self.nodes if "layers." in name]
        self.last = f"layers.{max(map(int, layers), default=0)}"
        self.has_days = "day" in self.inputs
        self.heads = self.n_table = 0
        self.n_signals = 1

    def assemble_tokens(self, rows: NDArray[np.float32]) -> str:
        """Item rows by id, small tables, [USER] and the read-out: one kernel. Returns the cuts."""
        joined = self.node("tokens/Concat", 3)
        user = self.producer(joined.input[0], "Unsqueeze").input[0]
        tables = [self.weight(f"tokens.tables.{name}") for name in FIELDS]
        tables.append(self.weight("tokens.position"))
        self.n_table = sum(map(len, tables))
        starts = np.cumsum([0, *map(len, tables[:-1])]).astype(np.int32)
        axis = self.constant("tokens/last", np.array([2]))
        one = self.constant("tokens/one", np.array([1]))
        shape = self.add("tokens", "Shape", [FIELDS[1]])
        length = self.add("tokens", "Shape", [FIELDS[1]], start=1, end=2)
        length = self.add("tokens", "Squeeze", [length])
        length = self.add("tokens", "Cast", [length], to=TensorProto.INT32)
        zero, step = (self.constant(f"tokens/{n}", np.int32(n)) for n in (0, 1))
        position = self.add("tokens", "Range", [zero, length, step])
        position = self.add("tokens", "Expand", [position, shape])
        codes = [self.add("tokens", "Unsqueeze", [n, axis]) for n in (*FIELDS, position)]
        stacked = self.add("tokens", "Concat", codes, axis=2)
        codes_of_table = self.add(
            "tokens", "Add", [stacked, self.constant("tokens/starts", starts)]
        )
        if "signals" in self.inputs:
            signals, weight = "signals", self.weight("tokens.signal")
            self.n_signals = len(weight)
        else:
            # The kernel reads at least one signal: any finite column, weighed by zero.
            signals, weight = codes[0], np.zeros((1, self.d_model), np.float32)
        tokens, read_outs, cuts = self.kernel(
            "token_assembly",
            [
                self.constant("tokens/rows", rows, self.dtype),
                "ids",
                user,
                self.constant("tokens/table", np.concatenate(tables), self.dtype),
                codes_of_table,
                self.add("tokens", "Cast", [signals], to=self.dtype),
                self.constant("tokens/signal_weight", weight, self.dtype),
                "tokens.read_out",
                "length",
            ],
            3,
        )
        ends = self.add("tokens", "Unsqueeze", [read_outs, one])
        self.replace(joined.output[0], "tokens", "Concat", [tokens, ends], axis=1)
        dims = self.inputs["rows"].type.tensor_type.shape.dim
        ids = [dims[0].dim_param, dims[1].dim_param]
        self.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT32, ids))
        return cuts

    def pool(self, cuts: str) -> None:
        """The last layer's two queries over its keys and values: one kernel."""
        softmax = self.node(f"{self.last}/Softmax")
        sums = self.producer(softmax.input[0], "Add")
        joined = self.node(f"{self.last}.out/MatMul").input[0]
        while self.producer(joined).op_type in ("QuantizeLinear", "DequantizeLinear"):
            joined = self.producer(joined).input[0]
        scope = self.last
        one = self.constant(f"{scope}/one", np.array([1]))
        self.heads = self._split_heads()
        width = self.d_model // self.heads
        query, key, value = (
            self.node(f"{self.last}.{name}/Add").output[0] for name in ("query", "key", "value")
        )
        # The graph's query weights hold 1 / sqrt(d), which the kernel applies itself.
        scale = self.constant(f"{scope}/scale", np.array(width**0.5), self.dtype)
        query = self.add(scope, "Mul", [query, scale])
        split = self.constant(f"{scope}/split", np.array([0, 0, self.heads, width]))
        query, key, value = (self.add(scope, "Reshape", [x, split]) for x in (query, key, value))
        cut = self.add(scope, "Unsqueeze", [cuts, one])
        given = [query, key, value, self.add(scope, "Concat", [cut, cut], axis=1)]
        if self.has_days:
            given += self._days(scope, sums.input[1], one)
        (out,) = self.kernel("pooled_attention", given, 1)
        joint = self.constant(f"{scope}/joint", np.array([0, 0, self.d_model]))
        self.replace(joined, scope, "Reshape", [out, joint])

    def search(self, tables: ItemTables, k_max: int) -> None:
        """The exact search of both vectors, with δ, under the mask: two kernels."""
        dims = {name: value.type.tensor_type.shape.dim for name, value in self.inputs.items()}
        batch = dims["length"][0].dim_param
        width, words = tables.candidates.shape[1], mask_words(len(tables.rows))
        self.graph.input.extend(
            [
                helper.make_tensor_value_info("delta", TensorProto.FLOAT, [batch, width]),
                helper.make_tensor_value_info("mask", TensorProto.INT32, [batch, words]),
            ]
        )
        one = self.constant(f"{SCAN}/one", np.array([1]))
        vectors = [self.add(SCAN, "Unsqueeze", [name, one]) for name in OUTPUTS]
        both = self.add(SCAN, "Concat", vectors, axis=1)
        delta = self.add(SCAN, "Unsqueeze", ["delta", one])
        both = self.add(SCAN, "Add", [both, delta])
        queries = self.add(SCAN, "Cast", [both], to=self.dtype)
        flat = self.constant(f"{SCAN}/flat", np.array([-1, width]))
        queries = self.add(SCAN, "Reshape", [queries, flat])
        mask = self.add(SCAN, "Unsqueeze", ["mask", one])
        twice = self.constant(f"{SCAN}/twice", np.array([1, N_VECTORS, 1]))
        mask = self.add(SCAN, "Expand", [mask, twice])
        flat_mask = self.constant(f"{SCAN}/flat_mask", np.array([-1, words]))
        given = [
            queries,
            self.constant(f"{SCAN}/items", tables.candidates, self.dtype),
            self.constant(f"{SCAN}/bias", tables.bias, TensorProto.FLOAT),
            self.add(SCAN, "Reshape", [mask, flat_mask]),
        ]
        (lists,) = self.kernel("score_topk_scan", given, 1)
        values, indices = self.kernel("score_topk_merge", [*given, lists], 2)
        by_user = self.constant(f"{SCAN}/by_user", np.array([-1, N_VECTORS, k_max]))
        for name, kind, tensor in (
            ("scores", TensorProto.FLOAT, values),
            ("items", TensorProto.INT64, indices),
        ):
            self.replace(name, SCAN, "Reshape", [tensor, by_user])
            shape = [batch, N_VECTORS, k_max]
            self.graph.output.append(helper.make_tensor_value_info(name, kind, shape))

    def _split_heads(self) -> int:
        """Heads of the last layer, from the shape [B, 2, H, d] that its queries are split into."""
        query = self.node(f"{self.last}.query/Add").output[0]
        for node in self.graph.node:
            if node.op_type == "Reshape" and node.input[0] == query:
                return int(self.weight(node.input[1])[2])
        raise CompileError(f"fuse: {self.last}: expected queries split into a constant shape")

    def _days(self, scope: str, bias: str, one: str) -> list[str]:
        """The bias by bucket [H, V], and the days of queries [B, 2] and keys [B, L + 2]."""
        node = self.producer(bias)
        while node.op_type != "Gather":
            node = self.producer(node.input[0])
        by_day = self.weight(node.input[0])
        first = self.constant(f"{scope}/first", np.array([0]))
        first_day = self.add(scope, "Gather", ["day", first], axis=1)
        # [USER] has the first event's day; nobody sees the read-out's key, whose day is any.
        keys = self.add(scope, "Concat", [first_day, "day", first_day], axis=1)
        end = self.add(scope, "Unsqueeze", ["length", one])
        end = self.add(scope, "Cast", [end], to=TensorProto.INT64)
        day = self.add(scope, "GatherElements", [keys, end], axis=1)
        queries = self.add(scope, "Concat", [day, day], axis=1)
        table = self.constant(f"{scope}/day_bias", by_day[:, _FIRST_DAYS], self.dtype)
        return [table, queries, keys]

    def kernel(self, name: str, inputs: Sequence[str], n_outputs: int) -> list[str]:
        """A node that TensorRT's parser makes a plugin layer of; returns its outputs."""
        attributes = {
            "domain": DOMAIN, "plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1,
        }  # fmt: skip
        return self.append(DOMAIN, name, inputs, n_outputs, attributes)


def _check(surgery: _Surgery, tables: ItemTables, k_max: int) -> None:
    n_items = len(tables.rows)
    outputs = {value.name: value.type.tensor_type.shape.dim for value in surgery.graph.output}
    expected = {
        "rows": [n_items, surgery.d_model],
        "candidates": [n_items, outputs[OUTPUTS[0]][1].dim_value],
        "bias": [n_items],
    }
    for name, shape in expected.items():
        array = getattr(tables, name)
        if list(array.shape) != shape or array.dtype != np.float32:
            raise ValueError(
                f"fuse: {name}: expected {shape} float32, got {list(array.shape)} {array.dtype}"
            )
    if not n_items:
        raise ValueError("fuse: rows: expected at least one item, got none")
    if not 1 <= k_max <= MAX_K:
        raise ValueError(f"fuse: k_max: expected 1 to {MAX_K}, got {k_max}")
    if surgery.dtype not in _DTYPES:
        raise CompileError(f"fuse: rows: expected fp32, fp16 or bf16, got {surgery.dtype}")
