"""A fused graph evaluated where TensorRT is not, by ONNX's own evaluator and the kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import Tensor

from engine.compile.fused import DOMAIN, NODE_INPUTS, ItemTables
from engine.model.stars import Stars
from engine.retrieval.mask import pack_mask
from kernels.attention import attention
from kernels.score_topk import score_topk
from kernels.token_assembly import token_assembly

K_MAX = 7


def evaluate(
    graph: onnx.ModelProto, inputs: Mapping[str, NDArray[Any]], backend: str = "reference"
) -> dict[str, NDArray[Any]]:
    """Outputs by name; kernels by their reference, or by Triton (interpreted on a CPU)."""
    kernels = [_op(name, backend) for name in NODE_INPUTS]
    evaluator = ReferenceEvaluator(graph, new_ops=[*kernels, GatherElements])
    names = [value.name for value in graph.graph.output]
    read = {value.name for value in graph.graph.input}
    given = {name: array for name, array in inputs.items() if name in read}
    return dict(zip(names, evaluator.run(None, given), strict=True))


def item_tables(model: Stars, n_items: int, seed: int = 0) -> ItemTables:
    """Items whose best are far apart, so that rounding reorders nothing."""
    rng = np.random.default_rng(seed)
    d_model, d_serve = model.config.d_model, model.config.d_serve
    return ItemTables(
        rng.standard_normal((n_items, d_model)).astype(np.float32),
        rng.standard_normal((n_items, d_serve)).astype(np.float32),
        rng.standard_normal(n_items).astype(np.float32),
    )


def request(
    inputs: dict[str, NDArray[Any]], tables: ItemTables, seed: int = 0
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """Inputs of the encode graph and of the fused one, for the same users.

    Args:
        inputs: of `random_inputs`; their rows are replaced by items' of the tables.
    """
    rng = np.random.default_rng(seed)
    batch, length = inputs["rows"].shape[:2]
    ids = rng.integers(0, len(tables.rows), (batch, length)).astype(np.int32)
    allowed = rng.random((batch, len(tables.rows))) < 0.5
    allowed[-1, 3:] = False
    plain = inputs | {"rows": tables.rows[ids]}
    fused = {
        name: array.astype(np.int32) if array.dtype.kind == "i" else array
        for name, array in inputs.items()
        if name != "rows"
    }
    delta = rng.standard_normal((batch, tables.candidates.shape[1])).astype(np.float32)
    return plain, fused | {"ids": ids, "delta": delta, "mask": pack_mask(allowed)}


def _token_assembly(backend: Any, **given: Tensor) -> tuple[Tensor, ...]:
    names = [name.removesuffix("_ptr") for name in NODE_INPUTS["token_assembly"]]
    values = {name: given[f"{name}_ptr"] for name in names}
    ends = values.pop("ends")
    return tuple(token_assembly(**values, read_sequence=None, ends=ends, backend=backend))


def _pooled_attention(backend: Any, **given: Tensor) -> tuple[Tensor, ...]:
    values = {name.removesuffix("_ptr"): value for name, value in given.items()}
    return (attention(**values, backend=backend).contiguous(),)


def _scan(backend: Any, **given: Tensor) -> tuple[Tensor, ...]:
    # What lies between the two kernels is theirs: here a token that only the merge below takes.
    return (given["queries_ptr"].new_zeros(len(given["queries_ptr"]), 1, 16, dtype=torch.int64),)


def _merge(backend: Any, **given: Tensor) -> tuple[Tensor, ...]:
    lists = given.pop("lists_ptr")
    assert (lists.dtype, len(lists)) == (torch.int64, len(given["queries_ptr"]))
    values = {name.removesuffix("_ptr"): value for name, value in given.items()}
    return tuple(score_topk(**values, k=K_MAX, backend=backend))


RUN: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "token_assembly": _token_assembly,
    "pooled_attention": _pooled_attention,
    "score_topk_scan": _scan,
    "score_topk_merge": _merge,
}


class GatherElements(OpRun):
    """ONNX's own goes through numpy.choose, which takes 32 rows at most."""

    op_domain = ""

    def _run(self, data: NDArray[Any], indices: NDArray[Any], axis: int) -> tuple[NDArray[Any]]:
        return (np.take_along_axis(data, indices, axis),)


def _op(name: str, backend: str) -> type[OpRun]:
    """The evaluator's operator for a node of the domain."""

    class Kernel(OpRun):
        op_domain = DOMAIN

        def _run(self, *inputs: NDArray[Any], **_: Any) -> tuple[NDArray[Any], ...]:
            given = {
                key: torch.from_numpy(np.array(value))
                for key, value in zip(NODE_INPUTS[name], inputs, strict=False)
            }
            return tuple(each.numpy() for each in RUN[name](backend, **given))

    Kernel.__name__ = name
    return Kernel
