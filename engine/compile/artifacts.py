"""What is made of a model: typed graphs, int8 for the CPU, engines and plans, each with its hash.

Both graphs are traced once and typed in every precision; what is not asked for is not made.
"""

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import onnx
import torch

from engine.errors import BackendUnavailable
from engine.ops import MAX_K
from engine.ranking.shop.sidecar import RANK_FILE, read_sidecar
from engine.runtime.sidecar import Bucket, PlanPrecision, Target, sha256, write_plan
from engine.runtime.tensorrt import INSTALL, load_module

from .fused import ItemTables, build_fused_plan
from .onnx import save, trace_append, trace_encoder
from .quantize import observe, quantize
from .server_model import write_server_model
from .subject import Subject
from .tensorrt import Plan, build_plan
from .typed import Typed, typed

Asked = Literal["onnx", "cpu", "tensorrt-rtx", "tensorrt", "bridge"]
TARGETS: tuple[Asked, ...] = get_args(Asked)
TYPED: tuple[Typed, ...] = ("fp32", "fp16", "bf16")
PLANNED: tuple[PlanPrecision, ...] = ("fp16", "bf16", "int8")
SUFFIXES: dict[Target, str] = {"tensorrt": "plan", "tensorrt-rtx": "rtx"}
_BATCHES = (1, 8, 32)


class Artifact(NamedTuple):
    """A file. An engine for several cards has a row for each; its hash says that it is one file."""

    file: str
    target: Asked
    sm: int | None
    precision: str
    bytes: int
    seconds: float
    sha256: str


@dataclass(frozen=True)
class Artifacts:
    """What was made in a folder.

    Attributes:
        rows: one an artifact and card.
        graphs: encode graphs by precision, int8 as the CPU runs it.
        append: the append graphs likewise; none for a bidirectional model.
        plans: of the encoder, by target and precision.
        rankers: plans of the bundle's ranker, by target; none where it has none.
    """

    rows: list[Artifact] = field(default_factory=list)
    graphs: dict[str, Path] = field(default_factory=dict)
    append: dict[str, Path] = field(default_factory=dict)
    plans: dict[tuple[str, str], Path] = field(default_factory=dict)
    rankers: dict[Target, Path] = field(default_factory=dict)


def buckets_of(window: int) -> tuple[Bucket, ...]:
    """Shapes that engines are built for: a quarter, half and whole window of 1, 8 and 32 users."""
    lengths = sorted({-(-window // 4), -(-window // 2), window})
    return tuple(Bucket(batch, length) for length in lengths for batch in _BATCHES)


def check_targets(targets: Sequence[Asked]) -> None:
    """Raises BackendUnavailable, before any work, for a target that cannot be built here."""
    for target in SUFFIXES:
        if target in targets:
            load_module(target)
    if "tensorrt" in targets:
        this_card()


def this_card() -> int:
    """SM of the card that a plan of TensorRT would be built on.

    Raises:
        BackendUnavailable: there is none.
    """
    if not torch.cuda.is_available():
        raise BackendUnavailable(
            "target tensorrt: expected an NVIDIA GPU, since a plan is built on the card that runs "
            "it, got none; tensorrt-rtx builds engines without one: "
            f"{INSTALL['tensorrt-rtx']}"
        )
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def make_artifacts(
    subject: Subject,
    targets: Sequence[Asked],
    sms: Sequence[int],
    folder: Path,
    progress: Callable[[str], None] = lambda _: None,
) -> Artifacts:
    """Writes everything of `targets` but the bridge's into `folder`.

    Args:
        sms: cards of TensorRT-RTX's engines.
        progress: told what begins.
    Raises:
        BackendUnavailable: see `check_targets`.
        CompileError, ValueError: see the builders.
    """
    check_targets(targets)
    folder.mkdir(parents=True, exist_ok=True)
    maker = _Maker(subject, folder, progress)
    if "onnx" in targets:
        maker.write_typed()
    if "cpu" in targets:
        maker.write_int8()
    for target in SUFFIXES:
        if target in targets:
            maker.write_plans(target, sms if target == "tensorrt-rtx" else (this_card(),))
    return maker.made


class _Maker:
    """Graphs of one model, made when they are first needed."""

    def __init__(self, subject: Subject, folder: Path, progress: Callable[[str], None]) -> None:
        self._subject, self._folder, self._progress = subject, folder, progress
        self._graphs: dict[str, onnx.ModelProto] = {}
        self.made = Artifacts()

    def write_typed(self) -> None:
        """Both graphs in every precision, and int8 as engines are built from it."""
        for precision in TYPED:
            begin = time.perf_counter()
            path = self._write("encode", "onnx", precision, self._encode(precision), begin)
            self.made.graphs[precision] = path
            begin = time.perf_counter()
            if self._append is not None:
                graph = typed(self._append, precision)
                path = self._write("append", "onnx", precision, graph, begin)
                self.made.append[precision] = path
        begin = time.perf_counter()
        self._write("encode", "onnx", "int8", self._engine_graph("int8"), begin, "_fp16")

    def write_int8(self) -> None:
        """Both graphs in int8 over fp32: the CPU takes what is not quantised as it likes."""
        begin = time.perf_counter()
        graph = quantize(self._encode("fp32"), self._ranges)
        self.made.graphs["int8"] = self._write("encode", "cpu", "int8", graph, begin)
        begin = time.perf_counter()
        if self._append is not None:
            graph = quantize(typed(self._append, "fp32"), self._ranges)
            self.made.append["int8"] = self._write("append", "cpu", "int8", graph, begin)

    def write_plans(self, target: Target, sms: Sequence[int]) -> None:
        """An engine or plan in each precision; for TensorRT the fused one and the server's too."""
        trt = load_module(target)
        buckets = buckets_of(self._subject.config.model.window)
        for precision in PLANNED:
            self._progress(f"{target}: {precision}, {len(buckets)} shapes")
            graph = self._engine_graph(precision).SerializeToString()
            plan = build_plan(trt, target, graph, precision, buckets, sms=sms)
            path = self._write_plan(f"encode_{precision}.{SUFFIXES[target]}", plan)
            self.made.plans[target, precision] = path
            if target == "tensorrt" and precision == "fp16":
                write_server_model(
                    self._folder / "model_repository", graph, plan.content, plan.sidecar
                )
                self._write_plan("encode_fp16_fused.plan", self._fused(trt, graph, sms[0]))
        self._write_ranker(trt, target, sms)

    def _write_ranker(self, trt: Any, target: Target, sms: Sequence[int]) -> None:
        """An engine or plan of what ranks a bundle's candidates, in fp32: it is small, and its
        conversions are sums of logarithms."""
        bundle = self._subject.bundle
        if bundle is None or bundle.ranker is None:
            return
        candidates = read_sidecar(bundle.ranker).candidates
        buckets = [Bucket(batch, candidates) for batch in _BATCHES]
        self._progress(f"{target}: ranker, {len(buckets)} shapes")
        graph = (bundle.ranker / RANK_FILE).read_bytes()
        plan = build_plan(trt, target, graph, "fp32", buckets, sms=sms)
        path = self._write_plan(f"rank_fp32.{SUFFIXES[target]}", plan)
        self.made.rankers[target] = path

    def _fused(self, trt: Any, graph: bytes, sm: int) -> Plan:
        subject = self._subject
        tables = ItemTables(subject.rows, subject.candidates, subject.bias)
        trtp = importlib.import_module(f"{trt.__name__}.plugin")
        buckets = buckets_of(subject.config.model.window)
        return build_fused_plan(trt, trtp, graph, tables, MAX_K, "fp16", buckets, sm=sm)

    @cached_property
    def _traced(self) -> onnx.ModelProto:
        self._progress("graphs: encode")
        return trace_encoder(self._subject.model)

    @cached_property
    def _append(self) -> onnx.ModelProto | None:
        if self._subject.config.model.pooling != "causal":
            return None
        self._progress("graphs: append")
        return trace_append(self._subject.model)

    @cached_property
    def _ranges(self) -> dict[str, float]:
        self._progress("graphs: ranges of the users' sequences, for int8")
        return observe(self._encode("fp32"), self._subject.calibration())

    def _encode(self, precision: Typed) -> onnx.ModelProto:
        return typed(self._traced, precision)

    def _engine_graph(self, precision: PlanPrecision) -> onnx.ModelProto:
        """The encode graph in fp16 or bf16, or int8 over fp16."""
        if precision not in self._graphs:
            self._graphs[precision] = (
                quantize(self._encode("fp16"), self._ranges)
                if precision == "int8"
                else self._encode(precision)
            )
        return self._graphs[precision]

    def _write(
        self,
        name: str,
        target: Asked,
        precision: str,
        graph: onnx.ModelProto,
        begin: float,
        over: str = "",
    ) -> Path:
        path = self._folder / f"{name}_{precision}{over}.onnx"
        save(graph, path)
        self._add(path, target, (None,), precision, time.perf_counter() - begin)
        return path

    def _write_plan(self, name: str, plan: Plan) -> Path:
        path = self._folder / name
        write_plan(path, plan.content, plan.sidecar)
        sidecar = plan.sidecar
        self._add(path, sidecar.target, sidecar.sm, sidecar.precision, plan.seconds)
        return path

    def _add(
        self,
        path: Path,
        target: Asked,
        sms: Sequence[int | None],
        precision: str,
        seconds: float,
    ) -> None:
        content = path.read_bytes()
        size, digest = len(content), sha256(content)
        for sm in sms:
            self.made.rows.append(
                Artifact(path.name, target, sm, precision, size, round(seconds, 3), digest)
            )
