"""Exports the encoder to ONNX: one graph that every runtime reads, with its dtypes inside."""

import ast
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import onnx
import torch
from torch import Tensor, nn

from engine.model.stars import Stars
from engine.runtime.inputs import FLOATS, OUTPUTS, USER_INPUTS

from . import append
from .append import AppendGraph
from .graph import DTYPES, EncodeGraph, PlainGraph
from .typed import TRACED, Typed, typed

OPSET = 20  # the first with half types in QuantizeLinear is 19; TensorRT 10.12 reads up to 22
Form = Literal["graph", "pooled", "plain"]
_SCOPES = "pkg.torch.onnx.name_scopes"


def export_encoder(
    model: Stars,
    path: Path,
    precision: Typed = "fp32",
    form: Form = "graph",
) -> None:
    """Writes the `encode` graph with dynamic batch and length, and checks it.

    Args:
        model: trained model, on the CPU.
        path: the .onnx file.
        precision: dtype of the weights and products; `graph` says what stays fp32. int8 is made of
            such a graph by `engine.compile.quantize`.
        form: see `trace_encoder`.
    Raises:
        ValueError: another form than `graph` in another precision than fp32.
    """
    if form != "graph" and precision != "fp32":
        raise ValueError(f"export_encoder: form {form}: expected precision fp32, got {precision}")
    traced = trace_encoder(model, form)
    save(typed(traced, precision) if form == "graph" else traced, path)


def export_append(model: Stars, path: Path, precision: Typed = "fp32") -> None:
    """Writes the `append` graph with dynamic batch, new rows and kept rows, and checks it.

    Args:
        model, path, precision: as in `export_encoder`.
    Raises:
        ValueError: the model is bidirectional, and keeps nothing.
    """
    save(typed(trace_append(model), precision), path)


def trace_encoder(model: Stars, form: Form = "graph") -> onnx.ModelProto:
    """The `encode` graph, for `typed` to type: its own dtype is fp64.

    Args:
        form: `graph` is what is served. `pooled` and `plain` are the model as it is written, with
            the last layer pooled or full, in fp32: rivals to measure against.
    """
    model.eval()
    module = (
        EncodeGraph(model, TRACED) if form == "graph" else PlainGraph(model, full=form == "plain")
    )
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=model.config.window)
    by_user, by_event = {0: batch}, {0: batch, 1: length}
    shapes = tuple(by_user if name in USER_INPUTS else by_event for name in module.inputs)
    example = _example(model, module.inputs, DTYPES[TRACED if form == "graph" else "fp32"])
    return trace(module, example, (shapes,), module.inputs, OUTPUTS)


def trace_append(model: Stars) -> onnx.ModelProto:
    """The `append` graph, for `typed` to type: its own dtype is fp64.

    Raises:
        ValueError: the model is bidirectional, and keeps nothing.
    """
    model.eval()
    module = AppendGraph(model, TRACED)
    batch, kept = torch.export.Dim("batch"), torch.export.Dim("kept", max=model.config.window + 1)
    new = torch.export.Dim("new", max=model.config.window + 1)
    dims: dict[str, dict[int, object]] = {
        "past_key": {0: batch, 4: kept},
        "past_value": {0: batch, 3: kept},
        "past_day": {0: batch, 1: kept},
        "past_length": {0: batch},
    }
    shapes = tuple(
        dims.get(name, {0: batch} if name in USER_INPUTS else {0: batch, 1: new})
        for name in module.inputs
    )
    example = _append_example(model, module.inputs, DTYPES[TRACED])
    return trace(module, example, (shapes,), module.inputs, append.OUTPUTS)


def save(graph: onnx.ModelProto, path: Path) -> None:
    """Checks a graph and writes it."""
    check(graph)
    onnx.save(graph, path)


def trace(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: tuple[object, ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
) -> onnx.ModelProto:
    """The module's graph.

    Args:
        module: on the CPU.
        example: arguments of its `forward`.
        shapes: their dynamic dimensions, as `torch.export` takes them.
        inputs, outputs: their names in the graph.
    """
    with _without_noise(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    graph: onnx.ModelProto = program.model_proto
    name_nodes(graph)
    return graph


def check(graph: onnx.ModelProto) -> None:
    """The ONNX checker with shape and type inference, strict. Raises what onnx raises."""
    onnx.checker.check_model(graph, full_check=True)
    onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True, data_prop=True)


def name_nodes(graph: onnx.ModelProto) -> None:
    """Names each node `module/Op` or `module/Op_1`: what compilers show, and calibration keys."""
    seen: Counter[str] = Counter()
    for node in graph.graph.node:
        scopes = {entry.key: entry.value for entry in node.metadata_props}.get(_SCOPES, "[]")
        modules = [name for name in ast.literal_eval(scopes)[:-1] if not name.startswith("_")]
        place = (modules[-1] if modules else "") or "encode"
        base = f"{place}/{node.op_type}"
        node.name = base if not seen[base] else f"{base}_{seen[base]}"
        seen[base] += 1
    # What the exporter says of itself (stack traces, paths) is no part of the artifact.
    parts = (*graph.graph.input, *graph.graph.output, *graph.graph.initializer, *graph.graph.node)
    for part in (*parts, graph.graph, graph):
        del part.metadata_props[:]
    # Shapes are inferred again where they are needed; the exporter's miss folded transposes.
    del graph.graph.value_info[:]


@contextmanager
def _without_noise() -> Iterator[None]:
    """Leaves out what the exporter says of every model: dimensions named twice, no torchvision."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*axis name.*will not be used")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
            yield
    finally:
        logger.setLevel(level)


def _example(model: Stars, names: tuple[str, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Inputs of a small batch, for tracing."""
    batch, length = 2, 5
    widths = {
        "rows": (length, model.config.d_model),
        "signals": (length, model.signal.shape[0]),
        "length": (),
        "user_categorical": (len(model.user.tables),),
        "user_numeric": (model.n_user_numeric,),
        "user_known": (model.n_user_numeric,),
    }
    dtypes = dict.fromkeys(FLOATS, torch.float32) | {"rows": dtype}
    return tuple(
        torch.ones(batch, *widths.get(name, (length,)), dtype=dtypes.get(name, torch.int32))
        for name in names
    )


def _append_example(model: Stars, names: tuple[str, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Inputs of a small batch with rows kept, for tracing."""
    batch, kept = 2, 3
    encoded = [name for name in names if name not in (*append.PAST, "is_user")]
    given = dict(zip(encoded, _example(model, tuple(encoded), dtype), strict=True))
    config = model.config
    heads, width = config.heads, config.d_model // config.heads
    past = torch.ones(batch, config.layers, heads, kept, width, dtype=dtype)
    given |= {
        "is_user": torch.zeros_like(given["event_type"]),
        "past_key": past.transpose(3, 4).contiguous(),
        "past_value": past,
        "past_length": torch.full((batch,), kept, dtype=torch.int32),
        "past_day": torch.ones(batch, kept, dtype=torch.int32),
    }
    return tuple(given[name] for name in names)
