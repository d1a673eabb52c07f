"""The CPU runtime beside what a user would pick instead: encoder_ms and append_ms of compile.json.

A rival runs a plain export of the same weights, every layer full, in each precision that it offers
and in fixed and dynamic shapes; the fastest that passes parity is the one to beat. Beside it stands
the same graph pooled, which tells how much the pooled last layer alone brings. One appended event
is timed in the same run.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args

import onnx
import torch

from engine.errors import BundleError, CompileError
from engine.model.stars import Stars
from engine.runtime.append import AppendEncoder
from engine.runtime.inputs import INPUTS, USER_INPUTS, Batch, Encoder, Vectors
from engine.runtime.onnx_cpu import OnnxEncoder
from engine.runtime.openvino import OpenVinoEncoder
from engine.runtime.registry import GraphPrecision, choose, open_append, open_graph
from engine.runtime.sidecar import Bucket
from engine.runtime.torch import TorchEncoder

from .onnx import save, trace_encoder
from .parity import BOUNDS, lowest_cosine
from .quantize import observe, quantize
from .samples import random_batch
from .timing import interleaved

FAMILIES = ("cpu", "torch_eager", "onnxruntime_plain", "openvino_plain", "pooled_same_graph")
_APPEND = "append"
_PRECISIONS: tuple[GraphPrecision, ...] = get_args(GraphPrecision)


class Contender(NamedTuple):
    """What is timed: family (a key of encoder_ms), precision, a call, and how near it is."""

    family: str
    precision: str
    call: Callable[[], Vectors]


class Race(NamedTuple):
    """What compile.json says of it.

    Attributes:
        encoder_ms: p50, p95 and precision by family.
        append_ms: p50 of one event appended to a window that lacks one, full_p50 of the window
            encoded whole, same runtime and precision; None for a bidirectional model.
        append_alone_ms: the same two in a run of their own, as a server has them: what they read
            has not been driven out of the cache by others.
        contenders: everyone that passed parity, by p50: name, family, precision, p50, p95.
    """

    encoder_ms: dict[str, dict[str, Any]]
    append_ms: dict[str, float] | None
    append_alone_ms: dict[str, float] | None
    contenders: list[dict[str, Any]]


def race(
    model: Stars,
    graphs: Mapping[str, Path],
    append: Mapping[str, Path],
    folder: Path,
    calibration: Sequence[Batch],
    *,
    threads: int = 2,
    rounds: int = 60,
) -> Race:
    """Times a full window of one user, everyone in turn.

    Args:
        model: on the CPU.
        graphs, append: by precision, fp32 and int8; no append graph for a bidirectional model.
        folder: for the rivals' graphs.
        calibration: batches for the rivals' int8.
        threads: of every contender; PyTorch's number is set back afterwards.
        rounds: times each contender runs.
    Raises:
        CompileError: a family has no contender that passes parity.
    """
    before, window = torch.get_num_threads(), model.config.window
    torch.set_num_threads(threads)
    try:
        batch = random_batch(model, 1, window, seed=99)
        truth = TorchEncoder(model).encode(batch)
        contenders = _ours(model, graphs, append, batch, threads)
        contenders |= _rivals(model, folder, calibration, batch, threads)
        # Correct first, or no timing.
        passing = {
            name: each
            for name, each in contenders.items()
            if lowest_cosine(each.call(), truth) >= BOUNDS[each.precision].cosine
        }
        expected = {*FAMILIES, *([_APPEND] if append else [])}
        missing = expected - {contender.family for contender in passing.values()}
        if missing:
            raise CompileError(
                f"encoder_ms: expected parity of each family, not of {sorted(missing)}"
            )
        times = interleaved({name: each.call for name, each in passing.items()}, rounds)
        pair = {e.family: e.call for e in passing.values() if e.family in ("cpu", _APPEND)}
        alone = interleaved(pair, rounds)
    finally:
        torch.set_num_threads(before)
    rows: list[dict[str, Any]] = [
        {"name": name, "family": each.family, "precision": each.precision}
        | {"p50": round(times[name].p50, 3), "p95": round(times[name].p95, 3)}
        for name, each in passing.items()
    ]
    rows.sort(key=lambda row: float(row["p50"]))
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        best.setdefault(row["family"], {k: row[k] for k in ("p50", "p95", "precision")})
    one = best.pop(_APPEND, None)
    encoder_ms = {family: best[family] for family in FAMILIES}
    if one is None:
        return Race(encoder_ms, None, None, rows)
    append_ms = {"p50": one["p50"], "full_p50": best["cpu"]["p50"]}
    append_alone_ms = {
        "p50": round(alone[_APPEND].p50, 3),
        "full_p50": round(alone["cpu"].p50, 3),
    }
    return Race(encoder_ms, append_ms, append_alone_ms, rows)


def _ours(
    model: Stars,
    graphs: Mapping[str, Path],
    append: Mapping[str, Path],
    batch: Batch,
    threads: int,
) -> dict[str, Contender]:
    """The CPU runtime that serves this model, and one event appended by it; both precisions."""
    window, served = model.config.window, choose("auto", model.config.model_dump())
    made = {}
    for precision in _PRECISIONS:
        choice = served._replace(precision=precision)
        # What is not served is timed to be seen beside it, in a family of its own.
        other = "" if choice == served else f"_{precision}"
        name = f"{choice.runtime} {precision}"
        full = open_graph(choice, graphs[precision], window, threads)
        made[f"cpu: {name}"] = Contender(f"cpu{other}", precision, _call(full, batch))
        if append:
            one = open_append(choice, append[precision], window, threads)
            appending = Contender(f"{_APPEND}{other}", precision, _appending(one, batch))
            made[f"append: {name}"] = appending
    return made


def _appending(encoder: AppendEncoder, batch: Batch) -> Callable[[], Vectors]:
    """The last event of a full window, whose other events are kept, over and over."""
    last = batch["rows"].shape[1] - 1
    kept = [encoder.empty()]
    encoder.append(_part(batch, slice(0, last)), kept)
    (user,) = kept
    length = user.length
    one = _part(batch, slice(last, None))

    def call() -> Vectors:
        user.length = length
        return encoder.append(one, kept)

    return call


def _part(batch: Batch, events: slice) -> Batch:
    """Some events of a batch of full windows."""
    part = {k: batch[k] if k in USER_INPUTS else batch[k][:, events] for k in INPUTS}
    part["length"] = batch["length"] * 0 + part["rows"].shape[1]
    return part


def _rivals(
    model: Stars, folder: Path, calibration: Sequence[Batch], batch: Batch, threads: int
) -> dict[str, Contender]:
    """What runs a plain export, in every precision and form, and the pooled graph."""
    names = ("plain_fp32", "plain_int8", "plain_dynamic", "pooled_int8")
    fp32, int8, dynamic, pooled = (folder / f"{name}.onnx" for name in names)
    plain = trace_encoder(model, "plain")
    save(plain, fp32)
    save(quantize(plain, observe(plain, calibration)), int8)
    _quantise_dynamically(fp32, dynamic)
    graph = trace_encoder(model, "pooled")
    save(quantize(graph, observe(graph, calibration)), pooled)
    made: dict[str, tuple[str, str, Encoder]] = {
        "torch eager fp32": ("torch_eager", "fp32", TorchEncoder(model)),
        "onnxruntime fp32": ("onnxruntime_plain", "fp32", OnnxEncoder(fp32, threads)),
        "onnxruntime int8": ("onnxruntime_plain", "int8", OnnxEncoder(int8, threads)),
        "onnxruntime dynamic int8": ("onnxruntime_plain", "int8", OnnxEncoder(dynamic, threads)),
    }
    window = model.config.window
    for name, family, precision, path in (
        ("openvino", "openvino_plain", "fp32", fp32),
        ("openvino", "openvino_plain", "bf16", fp32),
        ("openvino", "openvino_plain", "int8", int8),
        ("openvino pooled", "pooled_same_graph", "int8", pooled),
    ):
        for shape, fixed in ("dynamic", ()), ("fixed", (Bucket(1, window),)):
            with suppress(BundleError):  # a fixed shape that OpenVINO computes wrongly
                encoder = OpenVinoEncoder(path, threads, fixed, exact=precision == "fp32")
                made[f"{name} {precision}, {shape}"] = family, precision, encoder
    return {
        name: Contender(family, precision, _call(encoder, batch))
        for name, (family, precision, encoder) in made.items()
    }


def _call(encoder: Encoder, batch: Batch) -> Callable[[], Vectors]:
    return lambda: encoder.encode(batch)


def _quantise_dynamically(source: Path, path: Path) -> None:
    """ONNX Runtime's own int8, which needs no calibration."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it recommends a step that this graph does not need
    try:
        graph = onnx.load(source)
        quantize_dynamic(graph, path, per_channel=True, weight_type=QuantType.QInt8)
    finally:
        logger.setLevel(level)
