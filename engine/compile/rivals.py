"""The CPU runtime beside what a user would pick instead: encoder_ms of `compile.json`.

A rival runs a plain export of the same weights, every layer full, in each precision that it offers
and in fixed and dynamic shapes; the fastest that passes parity is the one to beat. Beside it stands
the same graph pooled, which tells how much the pooled last layer alone brings.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from engine.errors import BundleError
from engine.model.stars import Stars
from engine.runtime.inputs import Batch, Encoder
from engine.runtime.onnx_cpu import OnnxEncoder
from engine.runtime.openvino import OpenVinoEncoder
from engine.runtime.sidecar import Bucket
from engine.runtime.torch import TorchEncoder

from .onnx import export_encoder
from .quantize import export_int8
from .samples import random_batch
from .timing import Milliseconds, interleaved

FAMILIES = ("cpu", "torch_eager", "onnxruntime_plain", "openvino_plain", "pooled_same_graph")
# What "passes parity" with random weights, by precision (cosine of both vectors to torch fp32).
COSINE_BOUNDS = {"fp32": 0.999999, "fp16": 0.999, "bf16": 0.999, "int8": 0.99}


class Contender(NamedTuple):
    """A runtime on a graph: family (key of encoder_ms), precision, and what runs it."""

    family: str
    precision: str
    encoder: Encoder
    cosine: float


def encoder_ms(
    model: Stars,
    served: Path,
    folder: Path,
    calibration: Sequence[Batch],
    *,
    threads: int = 2,
    length: int = 200,
    rounds: int = 60,
) -> dict[str, dict[str, Any]]:
    """p50, p95 and precision of each family at batch 1; a rival's is its best that passes parity.

    Args:
        model: on the CPU.
        served: the int8 graph of the CPU runtime.
        folder: for the rivals' graphs.
        calibration: batches for the rivals' int8.
        threads: of every contender; PyTorch's number is set back afterwards.
        rounds: times each contender runs.
    Returns:
        FAMILIES, the fastest first.
    Raises:
        ValueError: a family has no contender that passes parity.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        batch = random_batch(model, 1, length, seed=99)
        truth = TorchEncoder(model).encode(batch)
        contenders = {
            name: Contender(family, precision, encoder, lowest_cosine(encoder.encode(batch), truth))
            for name, (family, precision, encoder) in _contenders(
                model, served, folder, calibration, threads, length
            ).items()
        }
        passing = {
            name: contender
            for name, contender in contenders.items()
            if contender.cosine >= COSINE_BOUNDS[contender.precision]
        }
        missing = set(FAMILIES) - {contender.family for contender in passing.values()}
        if missing:
            raise ValueError(
                f"encoder_ms: expected parity of each family, not of {sorted(missing)}"
            )
        times = interleaved({name: _call(c, batch) for name, c in passing.items()}, rounds)
    finally:
        torch.set_num_threads(before)
    best: dict[str, dict[str, Any]] = {}
    for name, contender in sorted(passing.items(), key=lambda item: times[item[0]].p50):
        taken: Milliseconds = times[name]
        row = {"p50": taken.p50, "p95": taken.p95, "precision": contender.precision, "as": name}
        best.setdefault(contender.family, row)
    return best


def lowest_cosine(ours: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> float:
    """The smallest cosine of two users' vectors, of either kind."""
    lowest = 1.0
    for x, y in zip(ours, theirs, strict=True):
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        lowest = min(lowest, float(((x * y).sum(axis=1) / lengths).min()))
    return lowest


def _contenders(
    model: Stars,
    served: Path,
    folder: Path,
    calibration: Sequence[Batch],
    threads: int,
    length: int,
) -> dict[str, tuple[str, str, Encoder]]:
    fp32, int8, pooled = (folder / f"{name}.onnx" for name in ("plain", "plain_int8", "pooled"))
    dynamic = folder / "plain_dynamic.onnx"
    export_encoder(model, fp32, form="plain")
    export_int8(model, int8, calibration, form="plain")
    export_int8(model, pooled, calibration, form="pooled")
    _quantise_dynamically(fp32, dynamic)
    made: dict[str, tuple[str, str, Encoder]] = {
        "torch fp32": ("torch_eager", "fp32", TorchEncoder(model)),
        "onnxruntime fp32": ("onnxruntime_plain", "fp32", OnnxEncoder(fp32, threads)),
        "onnxruntime int8": ("onnxruntime_plain", "int8", OnnxEncoder(int8, threads)),
        "onnxruntime dynamic int8": ("onnxruntime_plain", "int8", OnnxEncoder(dynamic, threads)),
        "openvino plain fp32": ("openvino_plain", "fp32", OpenVinoEncoder(fp32, threads, (), True)),
    }
    for name, family, precision, path in (
        ("openvino", "cpu", "int8", served),
        ("openvino plain", "openvino_plain", "int8", int8),
        ("openvino plain", "openvino_plain", "bf16", fp32),
        ("openvino pooled", "pooled_same_graph", "int8", pooled),
    ):
        for shape, fixed in ("dynamic", ()), ("fixed", (Bucket(1, length),)):
            with suppress(BundleError):  # a fixed shape that OpenVINO computes wrongly
                encoder = OpenVinoEncoder(path, threads, fixed)
                made[f"{name} {precision}, {shape}"] = family, precision, encoder
    return made


def _call(contender: Contender, batch: Batch) -> Callable[[], object]:
    return lambda: contender.encoder.encode(batch)


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
