"""The serving kernels as layers of a network: how input shapes give outputs, grid and integers.

A layer's expressions are held to launches that were really recorded, one for each shape bucket, so
that they cannot drift from the launchers. Sizes are ints here, and a framework's symbolic sizes
where a network is built: expressions use only `+`, `*` and a ceiling division.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .attention import launch as attention_launch
from .launch import Launch, recording
from .plugin import ContractError, Plugin, plugin
from .score_topk import launch as topk_launch
from .token_assembly import launch as token_launch

Shapes = Mapping[str, Sequence[Any]]
CeilDiv = Callable[[Any, int], Any]


@dataclass(frozen=True)
class Start:
    """What a launch takes besides tensors: up to three grid sizes, and the kernel's integers."""

    grid: tuple[Any, ...]
    scalars: Mapping[str, Any]


@dataclass(frozen=True)
class Output:
    """Shape and numpy dtype name of an output."""

    shape: tuple[Any, ...]
    dtype: str


@dataclass(frozen=True)
class Layer:
    """One kernel as a network layer.

    Attributes:
        name: of the plugin.
        plugin: the kernel compiled for one compute capability.
        outputs: shapes of the kernel's outputs, by name, from its inputs' shapes.
        start: grid and integers, from the inputs' shapes and a ceiling division.
        launches: one a bucket, which the expressions were held to.
    """

    name: str
    plugin: Plugin
    outputs: Callable[[Shapes], Mapping[str, Output]]
    start: Callable[[Shapes, CeilDiv], Start]
    launches: tuple[Launch, ...] = field(default=(), compare=False)

    def check(self, launches: Sequence[Launch]) -> None:
        """Holds the expressions to recorded launches.

        Raises:
            ContractError: an expression gives another value than a launch had.
        """
        for launch in launches:
            shapes = {name: _tensor(launch, name).shape for name in self.plugin.inputs}
            start = self.start(shapes, lambda a, b: -(-a // b))
            self._hold("grid", three(start.grid), three(launch.grid))
            for name in self.plugin.scalars:
                self._hold(name, start.scalars.get(name), launch.arguments[name])
            outputs = self.outputs(shapes)
            for name in self.plugin.outputs:
                recorded = _tensor(launch, name)
                self._hold(name, outputs[name].shape, tuple(recorded.shape))
                self._hold(name, outputs[name].dtype, str(recorded.dtype).removeprefix("torch."))

    def _hold(self, what: str, given: Any, recorded: Any) -> None:
        if given != recorded:
            sentence = f"{what}: expected {recorded} as launched, got {given}"
            raise ContractError(self.name, "expressions", sentence)


def three(grid: Sequence[Any]) -> tuple[Any, ...]:
    """A grid of three sizes."""
    return (*grid, 1, 1)[:3]


def token_assembly(
    buckets: Sequence[tuple[int, int]],
    sm: int,
    *,
    n_items: int,
    d_model: int,
    n_table: int,
    n_codes: int,
    n_signals: int,
    dtype: torch.dtype = torch.float16,
) -> Layer:
    """Tokens, read-outs and cuts from item rows, codes and the [USER] vectors.

    Args:
        buckets: (batch, length) of each.
        n_table, n_codes: rows of the stacked small tables, and how many are summed an event.
    """
    launches = []
    for batch, length in buckets:
        with recording() as made:
            token_launch.assemble(
                _meta(n_items, d_model, dtype=dtype),
                _meta(batch, length, dtype=torch.int32),
                _meta(batch, d_model, dtype=dtype),
                _meta(n_table, d_model, dtype=dtype),
                _meta(batch, length, n_codes, dtype=torch.int32),
                _meta(batch, length, n_signals, dtype=dtype),
                _meta(n_signals, d_model, dtype=dtype),
                _meta(d_model, dtype=dtype),
                None,
                _meta(batch, dtype=torch.int32),
                None,
                None,
                None,
                0.0,
            )
        launches += made
    block = token_launch.config(d_model).block_t
    name = str(dtype).removeprefix("torch.")

    def outputs(shapes: Shapes) -> dict[str, Output]:
        batch, length = shapes["codes_ptr"][0], shapes["codes_ptr"][1]
        return {
            "tokens_ptr": Output((batch, length + 1, d_model), name),
            "read_outs_ptr": Output((batch, d_model), name),
            "cuts_ptr": Output((batch,), "int32"),
        }

    def start(shapes: Shapes, cdiv: CeilDiv) -> Start:
        batch, length = shapes["codes_ptr"][0], shapes["codes_ptr"][1]
        n_tokens = (length + 1) * batch
        scalars = {
            "n_tokens": n_tokens,
            "n_read_outs": batch,
            "n_sequences": batch,
            "n_search": 0,
            "stride_sequence": length + 1,
        }
        return Start((cdiv(n_tokens, block) + cdiv(batch, block),), scalars)

    return _layer("token_assembly", launches, sm, outputs, start)


def pooled_attention(
    buckets: Sequence[tuple[int, int]],
    sm: int,
    *,
    heads: int,
    head_dim: int,
    n_queries: int = 2,
    n_day_buckets: int = 0,
    dtype: torch.dtype = torch.float16,
) -> Layer:
    """The last layer's few rows over a sequence's keys and values.

    Args:
        buckets: (batch, keys) of each.
        n_day_buckets: columns of the bias by difference of days; 0 for none, and then no days.
    """
    launches = []
    biased = n_day_buckets > 0
    for batch, keys in buckets:
        cached = _meta(batch, keys, heads, head_dim, dtype=dtype)
        with recording() as made:
            attention_launch.forward(
                attention_launch.Arguments(
                    _meta(batch, n_queries, heads, head_dim, dtype=dtype),
                    cached,
                    cached,
                    _meta(batch, n_queries, dtype=torch.int32),
                    _meta(heads, n_day_buckets, dtype=dtype) if biased else None,
                    _meta(batch, n_queries, dtype=torch.int32) if biased else None,
                    _meta(batch, keys, dtype=torch.int32) if biased else None,
                    None,
                    None,
                ),
                None,
                False,
            )
        launches += made
    block = attention_launch.forward_config(n_queries).block_m
    name = str(dtype).removeprefix("torch.")
    d_model = heads * head_dim

    def outputs(shapes: Shapes) -> dict[str, Output]:
        return {"out_ptr": Output((shapes["query_ptr"][0], n_queries, heads, head_dim), name)}

    def start(shapes: Shapes, cdiv: CeilDiv) -> Start:
        batch, keys = shapes["key_ptr"][0], shapes["key_ptr"][1]
        scalars = {
            "n_batch": batch,
            "n_queries": n_queries,
            "n_keys": keys,
            "n_heads": heads,
            "n_rows": batch * n_queries,
            "stride_qb": n_queries * d_model,
            "stride_qt": d_model,
            "stride_qh": head_dim,
        }
        for letter in "kv":
            scalars |= {
                f"stride_{letter}b": keys * d_model,
                f"stride_{letter}t": d_model,
                f"stride_{letter}h": head_dim,
            }
        return Start((batch * -(-n_queries // block), heads), scalars)

    return _layer("pooled_attention", launches, sm, outputs, start)


def score_topk(
    batches: Sequence[int],
    sm: int,
    *,
    n_items: int,
    dim: int,
    k: int,
    dtype: torch.dtype = torch.float16,
) -> tuple[Layer, Layer]:
    """The scan and, chained to it, the merge, in the shape class of the largest batch.

    One PTX serves all batches; what a smaller one loses is that a class of its own has more blocks.

    Args:
        batches: queries of each bucket.
    """
    scans, merges = [], []
    words = -(-n_items // topk_launch.WORD_BITS)
    config = topk_launch.choose_config(max(batches), n_items, k)
    for batch in batches:
        with recording() as made:
            topk_launch.score_topk(
                _meta(batch, dim, dtype=dtype),
                _meta(n_items, dim, dtype=dtype),
                _meta(n_items, dtype=torch.float32),
                _meta(batch, words, dtype=torch.int32),
                k,
                config,
            )
        scan, merge = made
        scans.append(scan)
        merges.append(merge)
    sizes = {"n_items": n_items, "n_words": words, "n_chunks": config.chunks}

    def lists(shapes: Shapes) -> dict[str, Output]:
        shape = (shapes["queries_ptr"][0], config.chunks, config.keep)
        return {"lists_ptr": Output(shape, "int64")}

    def answers(shapes: Shapes) -> dict[str, Output]:
        shape = (shapes["queries_ptr"][0], k)
        return {"values_ptr": Output(shape, "float32"), "indices_ptr": Output(shape, "int64")}

    def scanning(shapes: Shapes, cdiv: CeilDiv) -> Start:
        batch = shapes["queries_ptr"][0]
        return Start((cdiv(batch, config.block_q), config.chunks), {"n_queries": batch, **sizes})

    def merging(shapes: Shapes, cdiv: CeilDiv) -> Start:
        return Start((shapes["queries_ptr"][0],), {**sizes, "k": k})

    return (
        _layer("score_topk_scan", scans, sm, lists, scanning),
        _layer("score_topk_merge", merges, sm, answers, merging),
    )


def _layer(
    name: str,
    launches: Sequence[Launch],
    sm: int,
    outputs: Callable[[Shapes], Mapping[str, Output]],
    start: Callable[[Shapes, CeilDiv], Start],
) -> Layer:
    layer = Layer(name, plugin(launches, sm), outputs, start, tuple(launches))
    layer.check(launches)
    return layer


def _meta(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _tensor(launch: Launch, name: str) -> Tensor:
    value = launch.arguments[name]
    assert isinstance(value, Tensor)
    return value
