"""The fused graph against the model itself and an exact search, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from engine.compile.fused import DOMAIN, NODE_INPUTS, ItemTables, fuse
from engine.compile.onnx import export_encoder
from engine.compile.quantize import linear_nodes, quantize
from engine.errors import CompileError
from engine.model.build import model_data
from engine.model.stars import Stars
from engine.retrieval.mask import unpack_mask
from tests.compile.fused_graph import K_MAX, evaluate, item_tables, request
from tests.tiny import cosine, encoded, random_inputs, tiny_config, tiny_shop, trained_like

N_ITEMS = 45
SHOPS = ("full", "bare", "no days")
Arrays = dict[str, NDArray[Any]]


def model_of(shop: str, **changes: Any) -> Stars:
    torch.manual_seed(0)
    data = replace(model_data(tiny_shop()), n_event_types=3)
    if shop == "bare":
        data = replace(data, category_sizes=[], n_user_numeric=0, n_signals=0)
    sizes = {"window": 200, "hop": 50, "d_model": 32, "day_bias": shop != "no days"} | changes
    return trained_like(Stars(tiny_config(**sizes).model, data))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Stars, bytes]]:
    folder, made = tmp_path_factory.mktemp("graphs"), dict[Any, Any]()

    def export(shop: str, precision: Any = "fp32", **changes: Any) -> tuple[Stars, bytes]:
        key = (shop, precision, *changes.items())
        if key not in made:
            model, path = model_of(shop, **changes), folder / f"{len(made)}.onnx"
            export_encoder(model, path, precision)
            made[key] = model, path.read_bytes()
        return made[key]

    return export


def expected(model: Stars, plain: Arrays, fused: Arrays, tables: ItemTables) -> Arrays:
    """Vectors of the model, and the best items of both by a sort of all scores."""
    h_next, h_gen = encoded(model, plain)
    queries = np.stack([h_next, h_gen], axis=1) + fused["delta"][:, None]  # [B, 2, D]
    scores = queries.astype(np.float64) @ tables.candidates.T + tables.bias
    allowed = unpack_mask(fused["mask"], len(tables.rows))
    scores = np.where(allowed[:, None], scores, -np.inf)
    items = np.argsort(-scores, axis=2, kind="stable")[..., :K_MAX]
    best = np.take_along_axis(scores, items, axis=2)
    items = np.where(best > -np.inf, items, -1)
    return {"h_next": h_next, "h_gen": h_gen, "scores": best, "items": items}


def check(got: Arrays, wanted: Arrays, tolerance: float = 2e-5) -> None:
    assert got.keys() == wanted.keys()
    for name in ("h_next", "h_gen", "scores"):
        np.testing.assert_allclose(
            got[name], wanted[name], rtol=10 * tolerance, atol=tolerance, err_msg=name
        )
        assert got[name].dtype == np.float32
    np.testing.assert_array_equal(got["items"], wanted["items"])
    assert got["items"].dtype == np.int64


def run(
    exported: Callable[..., tuple[Stars, bytes]],
    shop: str,
    batch: int,
    length: int,
    change: Callable[[onnx.ModelProto], None] = lambda graph: None,
    backend: str = "reference",
) -> tuple[Arrays, Arrays]:
    model, graph = exported(shop)
    tables = item_tables(model, N_ITEMS)
    fused = fuse(graph, tables, K_MAX).graph
    change(fused)
    plain, given = request(random_inputs(model, batch, length, seed=batch), tables)
    return evaluate(fused, given, backend), expected(model, plain, given, tables)


@pytest.mark.parametrize("shop", SHOPS)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (4, 17), (5, 50)])
def test_the_fused_graph_equals_the_model_and_an_exact_search(
    exported: Callable[..., tuple[Stars, bytes]], shop: str, batch: int, length: int
) -> None:
    check(*run(exported, shop, batch, length))


def test_with_the_kernels_themselves(exported: Callable[..., tuple[Stars, bytes]]) -> None:
    check(*run(exported, "full", 3, 9, backend="triton"))


def test_in_half_precision_it_equals_its_own_rounding(
    exported: Callable[..., tuple[Stars, bytes]],
) -> None:
    model, graph = exported("full", "fp16")
    tables = item_tables(model, N_ITEMS)
    plain, given = request(random_inputs(model, 4, 20, seed=1), tables)
    got, wanted = evaluate(fuse(graph, tables, K_MAX).graph, given), None
    wanted = expected(model, plain, given, tables)
    for name in ("h_next", "h_gen"):
        np.testing.assert_allclose(got[name], wanted[name], rtol=0.02, atol=0.02)
    np.testing.assert_allclose(got["scores"], wanted["scores"], rtol=0.02, atol=0.1)


def swap(node: str, first: str, second: str) -> Callable[[onnx.ModelProto], None]:
    names = NODE_INPUTS[node]

    def change(graph: onnx.ModelProto) -> None:
        inputs = found(graph, f"{DOMAIN}/{node}").input
        i, j = names.index(first), names.index(second)
        inputs[i], inputs[j] = inputs[j], inputs[i]

    return change


def found(graph: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = (node for node in graph.graph.node if node.name == name)
    return node


def reorder(name: str, order: list[int]) -> Callable[[onnx.ModelProto], None]:
    def change(graph: onnx.ModelProto) -> None:
        node = found(graph, name)
        inputs = [node.input[i] for i in order]
        del node.input[:]
        node.input.extend(inputs)

    return change


def altered(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Any:
    def apply(graph: onnx.ModelProto) -> None:
        (weight,) = (w for w in graph.graph.initializer if w.name == name)
        weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight)), name))

    return apply


def stack_masks(graph: onnx.ModelProto) -> None:
    """All users' masks, then all again, where each user's belong beside each other."""
    node = found(graph, "scan/Expand")
    mask, output = node.input[0], node.output[0]
    node.CopyFrom(helper.make_node("Concat", [mask, mask], [output], name=node.name, axis=0))


WRONG: dict[str, Callable[[onnx.ModelProto], None]] = {
    "keys for values": swap("pooled_attention", "key_ptr", "value_ptr"),
    "the read-out before the last item": reorder("scan/Concat", [1, 0]),
    "codes in another order": reorder("tokens/Concat_1", [1, 0, 2, 3, 4, 5]),
    "no position": reorder("tokens/Concat_1", [0, 1, 2, 3, 4, 4]),
    "tokens of one event later": reorder("layers.1/Concat_2", [1, 0, 0]),
    "a query that is scaled twice": altered("fused/layers.1/scale", np.ones_like),
    "bias of the next bucket": altered("fused/layers.1/day_bias", lambda x: np.roll(x, 1, 1)),
    "bias of the other head": altered("fused/layers.1/day_bias", lambda x: x[::-1].copy()),
    "items of the other end": altered("fused/tokens/rows", lambda x: x[::-1].copy()),
    "candidates of the next item": altered("fused/scan/items", lambda x: np.roll(x, 1, 0)),
    "no prior": altered("fused/scan/bias", np.zeros_like),
    "starts off by one": altered("fused/tokens/starts", lambda x: np.maximum(x - 1, 0)),
    "no offset": reorder("scan/Add", [0, 0]),
    "masks of other users": stack_masks,
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_wire_is_noticed(exported: Callable[..., tuple[Stars, bytes]], what: str) -> None:
    got, wanted = run(exported, "full", 4, 17, WRONG[what])
    with pytest.raises(AssertionError):
        check(got, wanted)


def test_nothing_of_what_was_replaced_is_left(
    exported: Callable[..., tuple[Stars, bytes]],
) -> None:
    model, graph = exported("full")
    before = onnx.ModelProto.FromString(graph).graph
    after = fuse(graph, item_tables(model, N_ITEMS), K_MAX).graph.graph
    names = {node.name for node in after.node}
    gone = {node.name for node in before.node} - names
    assert {"tokens/Gather", "tokens/Concat", "tokens/Slice", "layers.1/Softmax"} <= gone
    assert {"layers.1/MatMul", "layers.1/MatMul_1", "encode/Gather"} <= gone
    kept = {node.name: node for node in before.node if node.name in names}
    assert {"layers.0/Softmax", "layers.1.query/MatMul", "layers.1/Relu", "next/Gemm"} <= set(kept)
    for node in after.node:
        if node.name in kept:
            assert node == kept[node.name], "everything else is untouched"
    read = {name for node in after.node for name in node.input}
    assert {value.name for value in after.input} <= read, "no input that nothing reads"
    assert {weight.name for weight in after.initializer} <= read
    assert [value.name for value in after.output] == ["h_next", "h_gen", "scores", "items"]
    inputs = {value.name for value in before.input} - {"rows"} | {"ids", "delta", "mask"}
    assert {value.name for value in after.input} == inputs


def test_an_int8_graph_is_fused_too(exported: Callable[..., tuple[Stars, bytes]]) -> None:
    model, graph = exported("full")
    plain = onnx.ModelProto.FromString(graph)
    quantised = quantize(plain, dict.fromkeys(linear_nodes(plain), 20.0)).SerializeToString()
    tables = item_tables(model, N_ITEMS)
    fused = fuse(quantised, tables, K_MAX).graph
    kinds = [node.op_type for node in fused.graph.node]
    assert kinds.count("QuantizeLinear") > 4
    inputs, given = request(random_inputs(model, 3, 9, seed=1), tables)
    got = evaluate(fused, given)
    for ours, theirs in zip((got["h_next"], got["h_gen"]), encoded(model, inputs), strict=True):
        assert cosine(ours, theirs) > 0.95


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"rows": np.zeros((4, 31), np.float32)},
            r"rows: expected \[4, 32\] float32, got \[4, 31\]",
        ),
        ({"rows": np.zeros((4, 32))}, r"rows: expected \[4, 32\] float32, got \[4, 32\] float64"),
        ({"bias": np.zeros(3, np.float32)}, r"bias: expected \[4\] float32, got \[3\]"),
        ({"candidates": np.zeros((4, 9), np.float32)}, r"candidates: expected \[4, 8\] float32"),
    ],
)
def test_tables_that_do_not_fit(
    exported: Callable[..., tuple[Stars, bytes]], change: dict[str, Any], text: str
) -> None:
    model, graph = exported("full")
    with pytest.raises(ValueError, match=f"fuse: {text}"):
        fuse(graph, replace(item_tables(model, 4), **change), K_MAX)


@pytest.mark.parametrize("k_max", [0, 501])
def test_k_out_of_range(exported: Callable[..., tuple[Stars, bytes]], k_max: int) -> None:
    model, graph = exported("full")
    with pytest.raises(ValueError, match=f"fuse: k_max: expected 1 to 500, got {k_max}"):
        fuse(graph, item_tables(model, 4), k_max)


def test_an_empty_catalogue(exported: Callable[..., tuple[Stars, bytes]]) -> None:
    model, graph = exported("full")
    with pytest.raises(ValueError, match="fuse: rows: expected at least one item, got none"):
        fuse(graph, item_tables(model, 0), K_MAX)


def test_a_bidirectional_graph_is_refused(
    exported: Callable[..., tuple[Stars, bytes]],
) -> None:
    model, graph = exported("full", pooling="cls")
    text = "expected a node tokens/Concat of 3 inputs, pooled causally, got 2"
    with pytest.raises(CompileError, match=text):
        fuse(graph, item_tables(model, 4), K_MAX)


def test_a_graph_without_its_parts_is_refused(
    exported: Callable[..., tuple[Stars, bytes]],
) -> None:
    model, graph = exported("full")
    lost = onnx.ModelProto.FromString(graph)
    found(lost, "layers.1/Softmax").name = "other"
    with pytest.raises(CompileError, match=r"expected a node layers\.1/Softmax, got none"):
        fuse(lost.SerializeToString(), item_tables(model, 4), K_MAX)
