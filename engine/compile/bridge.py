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
from types import GenericAlias
from typing import Any

from engine.ops import Layer, three


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
