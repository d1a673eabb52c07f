"""A Triton kernel inside a TensorRT engine, as an ahead-of-time plugin layer.

`kernels.plugin` proves that a compiled kernel keeps TensorRT's contract, `kernels.layers` says how
the shapes of its inputs give its outputs, its grid and its integers. `register` hands such a layer
to `tensorrt.plugin` (TensorRT 10.8 and later); the finished engine needs neither Python nor a
library beside it.

Nothing here imports TensorRT: the module is an argument, so that all but the final load is checked
where TensorRT is not.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import GenericAlias
from typing import Any, NamedTuple

import torch

from engine.config import ModelConfig
from engine.data.clock import HOURS, WEEKDAYS, WEEKS
from engine.features import DAY_BIAS_BUCKETS, RECENCY_BUCKETS
from engine.ops import PTX_VERSIONS, ContractError, Layer, layers, three
from engine.runtime.sidecar import Bucket

N_CODES = 6  # small tables that an event takes a row of: the five fields and the position
N_VECTORS = 2  # of a user: h_next and h_gen


@dataclass(frozen=True)
class KernelShapes:
    """What the kernels of a fused plan are compiled for.

    Attributes:
        n_items, d_model, heads, d_serve: of the catalogue and the encoder.
        n_table: rows of the stacked small tables.
        n_signals: columns of the external signals, at least 1: a shop without has one of zeros.
        n_day_buckets: of the last layer's bias; 0 without one.
        k_max: answers a vector.
        dtype: of rows, weights and candidates.
    """

    n_items: int
    d_model: int
    heads: int
    d_serve: int
    n_table: int
    n_signals: int
    n_day_buckets: int
    k_max: int
    dtype: torch.dtype = torch.float16

    @classmethod
    def of(
        cls, config: ModelConfig, n_items: int, n_event_types: int, n_signals: int, k_max: int
    ) -> "KernelShapes":
        """Of a model's configuration and the counts of its shop, in fp16."""
        tables = (HOURS, WEEKDAYS, WEEKS, n_event_types, RECENCY_BUCKETS, config.window)
        return cls(
            n_items=n_items,
            d_model=config.d_model,
            heads=config.heads,
            d_serve=config.d_serve,
            n_table=sum(tables),
            n_signals=max(n_signals, 1),
            n_day_buckets=DAY_BIAS_BUCKETS if config.day_bias else 0,
            k_max=k_max,
        )


class FusedLayers(NamedTuple):
    """The kernels of a fused plan, compiled for one card."""

    token_assembly: Layer
    pooled_attention: Layer
    scan: Layer
    merge: Layer


def fused_layers(shapes: KernelShapes, buckets: Sequence[Bucket], sm: int) -> FusedLayers:
    """Compiles the kernels of a fused plan for all its buckets.

    Raises:
        ContractError: a kernel breaks a rule of ahead-of-time plugins; `rule` says which.
    """
    token = layers.token_assembly(
        buckets, sm, n_items=shapes.n_items, d_model=shapes.d_model, n_table=shapes.n_table,
        n_codes=N_CODES, n_signals=shapes.n_signals, dtype=shapes.dtype,
    )  # fmt: skip
    attention = layers.pooled_attention(
        # The exported graph has a key for [USER], each event and, seen by nobody, the read-out.
        [(batch, length + 2) for batch, length in buckets], sm, heads=shapes.heads,
        head_dim=shapes.d_model // shapes.heads, n_day_buckets=shapes.n_day_buckets,
        dtype=shapes.dtype,
    )  # fmt: skip
    scan, merge = layers.score_topk(
        sorted({N_VECTORS * batch for batch, _ in buckets}), sm, n_items=shapes.n_items,
        dim=shapes.d_serve, k=shapes.k_max, dtype=shapes.dtype,
    )  # fmt: skip
    return FusedLayers(token, attention, scan, merge)


def bridge_report(
    shapes: KernelShapes, buckets: Sequence[Bucket], sms: Sequence[int]
) -> list[dict[str, Any]]:
    """One entry a kernel and card: kernel, sm, ptx_version, assembled, rules and refused.

    rules are the names of those that were checked and kept. Where a card's kernels are refused,
    one entry has assembled false and, as refused, the sentence with the rule that is broken.
    """
    entries: list[dict[str, Any]] = []
    for sm in sms:
        try:
            made = fused_layers(shapes, buckets, sm)
        except ContractError as error:
            entry = {"kernel": error.kernel, "assembled": False, "rules": [], "refused": str(error)}
            entries.append({**entry, "sm": sm, "ptx_version": PTX_VERSIONS[sm]})
            continue
        entries += [
            {
                "kernel": layer.name,
                "sm": sm,
                "ptx_version": layer.plugin.ptx_version,
                "assembled": True,
                "rules": [*layer.plugin.rules, "expressions"],
                "refused": None,
            }
            for layer in made
        ]
    return entries


def register(trtp: Any, dtypes: Mapping[str, Any], layer: Layer) -> str:
    """Registers a layer with `tensorrt.plugin`; then `trtp.op.stars.<name>(…)` makes it.

    Args:
        trtp: the module `tensorrt.plugin`.
        dtypes: TensorRT's DataType by numpy dtype name.
        layer: what to register.
    Returns:
        The plugin's id, for instance "stars::token_assembly".
    """
    plugin = layer.plugin
    plugin_id = f"stars::{layer.name}"

    def shapes(descriptions: Sequence[Any]) -> dict[str, Any]:
        named = zip(plugin.inputs, descriptions, strict=True)
        return {name: each.shape_expr for name, each in named}

    def describe(*descriptions: Any) -> Any:
        outputs = layer.outputs(shapes(descriptions))
        return tuple(
            trtp.from_shape_expr(tuple(outputs[name].shape), dtypes[outputs[name].dtype])
            for name in plugin.outputs
        )

    def implement(*arguments: Any) -> Any:
        descriptions = arguments[: len(plugin.inputs)]
        start = layer.start(shapes(descriptions), trtp.cdiv)
        launch = trtp.KernelLaunchParams()
        launch.grid_x, launch.grid_y, launch.grid_z = three(start.grid)
        launch.block_x = plugin.block_x
        launch.shared_mem = plugin.shared_bytes
        extra = trtp.SymIntExprs(len(plugin.scalars))
        for i, name in enumerate(plugin.scalars):
            extra[i] = trtp.SymInt32(start.scalars[name])
        return plugin.name, plugin.ptx, launch, extra

    description, n_outputs = trtp.TensorDesc, len(plugin.outputs)
    described = GenericAlias(tuple, (description,) * n_outputs)
    inputs = [(name, description) for name in plugin.inputs]
    # TensorRT reads names, types and the return type off the signature; both functions take as many
    # tensors as the kernel has inputs.
    describe.__signature__ = _signature(inputs, described)  # type: ignore[attr-defined]
    implement.__signature__ = _signature(  # type: ignore[attr-defined]
        [*inputs, ("outputs", described), ("tactic", int)],
        tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymExprs],
    )
    trtp.register(plugin_id)(describe)
    trtp.aot_impl(plugin_id)(implement)
    return plugin_id


def _signature(parameters: Sequence[tuple[str, Any]], returns: Any) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [inspect.Parameter(name, kind, annotation=each) for name, each in parameters],
        return_annotation=returns,
    )
