"""Encoders of random weights over a made-up shop: the engine's, and what a user would pick.

Making the graphs of `paper` takes a minute, so they are kept below artifacts/gate/encoders, by the
code that makes them.
"""

import copy
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from engine.bundle import APPEND_FILE, APPEND_INT8_FILE, ENCODE_FILE, ENCODE_INT8_FILE
from engine.compile.export import export_graphs
from engine.compile.onnx import save, trace_encoder
from engine.compile.parity import BOUNDS, lowest_cosine
from engine.compile.quantize import observe, quantize
from engine.compile.samples import random_batch
from engine.compile.subject import Subject, random_subject
from engine.config import Preset, load_config
from engine.data.dataset import Dataset
from engine.data.generated import generated_shop
from engine.model.stars import Stars
from engine.pipeline import begin, is_made, mark_made, stage_key
from engine.runtime.append import AppendEncoder, Kept
from engine.runtime.inputs import INPUTS, USER_INPUTS, Batch, Encoder, Vectors
from engine.runtime.onnx_cpu import OnnxEncoder
from engine.runtime.openvino import OpenVinoEncoder
from engine.runtime.registry import choose, open_append, open_graph
from engine.runtime.sidecar import Bucket
from engine.runtime.torch import TorchEncoder

from .case import ENGINE

FOLDER = Path(__file__).resolve().parents[1] / "artifacts" / "gate" / "encoders"
ENCODE = {"fp32": ENCODE_FILE, "int8": ENCODE_INT8_FILE}
APPEND = {"fp32": APPEND_FILE, "int8": APPEND_INT8_FILE}
PLAIN, PLAIN_INT8, PLAIN_DYNAMIC = "plain.onnx", "plain.int8.onnx", "plain.dynamic.onnx"


class Way(NamedTuple):
    """A call on one batch, and the precision whose parity it must pass."""

    precision: str
    call: Callable[[], Vectors]


class Encoders:
    """A model of a preset, its graphs, and whoever runs them.

    Args:
        preset: shape of the model.
        threads: of every encoder.
        folder: where shops and graphs are kept.
    """

    def __init__(self, preset: Preset, threads: int, folder: Path = FOLDER) -> None:
        config = load_config(preset)
        self.threads, self.window = threads, config.model.window
        self.folder = folder / preset
        shop = self.folder / "shop"
        key = stage_key("encoders", config)
        made = is_made(self.folder, key)
        if made:
            dataset = Dataset.load(shop)
        else:
            begin(self.folder, key)
            shutil.rmtree(shop, ignore_errors=True)
            dataset = generated_shop(
                shop, events=self.window * 3 // 2, text_dim=config.model.text_dim
            )
        self.subject: Subject = random_subject(dataset, config)
        self.model: Stars = self.subject.model
        self.served = choose("auto", config.model.model_dump())
        if not made:
            self._write_graphs()
            mark_made(self.folder, key)

    def _write_graphs(self) -> None:
        batches = self.subject.calibration()
        export_graphs(self.model, self.folder, batches)
        plain = trace_encoder(self.model, "plain")
        save(plain, self.folder / PLAIN)
        save(quantize(plain, observe(plain, batches)), self.folder / PLAIN_INT8)
        quantize_dynamic(
            onnx.load(self.folder / PLAIN),
            self.folder / PLAIN_DYNAMIC,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )

    @property
    def graphs(self) -> Mapping[str, Path]:
        """The served encode graphs by precision."""
        return {precision: self.folder / name for precision, name in ENCODE.items()}

    @cached_property
    def engine(self) -> Encoder:
        """What `auto` chooses to serve."""
        return open_graph(
            self.served, self.graphs[self.served.precision], self.window, self.threads
        )

    @cached_property
    def appender(self) -> AppendEncoder:
        """Likewise, of new events."""
        path = self.folder / APPEND[self.served.precision]
        return open_append(self.served, path, self.window, self.threads)

    def window_of(self, events: int) -> Batch:
        """One user with a history of `events`."""
        return random_batch(self.model, 1, events, seed=99)

    def ways(self, batch: Batch) -> dict[str, Way]:
        """ENGINE's and each opponent's: a plain export of the same weights, or the model itself."""
        plain, int8, dynamic = (self.folder / name for name in (PLAIN, PLAIN_INT8, PLAIN_DYNAMIC))
        compiled = copy.deepcopy(self.model)
        compiled.encode = torch.compile(compiled.encode)  # type: ignore[method-assign]
        fixed = (Bucket(1, self.window),)
        opened: dict[str, tuple[str, Encoder]] = {
            ENGINE: (self.served.precision, self.engine),
            "torch_eager": ("fp32", TorchEncoder(self.model)),
            "torch_compile": ("fp32", TorchEncoder(compiled)),
            "onnxruntime": ("fp32", OnnxEncoder(plain, self.threads)),
            "onnxruntime_int8": ("int8", OnnxEncoder(dynamic, self.threads)),
            # Without a hint OpenVINO computes in bf16 where the processor can.
            "openvino": ("bf16", OpenVinoEncoder(plain, self.threads, fixed)),
            "openvino_int8": ("int8", OpenVinoEncoder(int8, self.threads, fixed)),
        }
        return {
            name: Way(precision, lambda encoder=encoder: encoder.encode(batch))
            for name, (precision, encoder) in opened.items()
        }

    def appending(self, batch: Batch) -> Way:
        """The last event of a history whose other events are kept, over and over."""
        last = batch["rows"].shape[1] - 1
        kept: list[Kept] = [self.appender.empty()]
        self.appender.append(_part(batch, slice(0, last)), kept)
        length, one = kept[0].length, _part(batch, slice(last, None))

        def call() -> Vectors:
            kept[0].length = length
            return self.appender.append(one, kept)

        return Way(self.served.precision, call)

    def check(self, name: str, way: Way, truth: Vectors) -> None:
        """AssertionError where the vectors are further from torch's in fp32 than parity allows."""
        found, least = lowest_cosine(way.call(), truth), BOUNDS[way.precision].cosine
        assert found >= least, f"{name}: cosine: expected at least {least}, got {found:.6f}"

    def truth(self, batch: Batch) -> Vectors:
        """Torch's vectors in fp32."""
        return TorchEncoder(self.model).encode(batch)

    def work(self, events: int) -> tuple[int, int]:
        """Bytes of fp32 weights and inputs read once, and flops, of a window of `events`."""
        config = self.model.config
        rows, d = events + 2, config.d_model  # [USER], the events and the read-out
        weights = config.layers * (4 * d * d + 2 * d * config.d_ff)
        attended = config.layers * 4 * d * rows * (rows + 1) // 2
        return 4 * (weights + events * d), 2 * weights * rows + attended


def _part(batch: Batch, events: slice) -> Batch:
    """Some events of a batch of full windows."""
    part: dict[str, Any] = {
        name: batch[name] if name in USER_INPUTS else batch[name][:, events] for name in INPUTS
    }
    part["length"] = batch["length"] * 0 + part["rows"].shape[1]
    return part
