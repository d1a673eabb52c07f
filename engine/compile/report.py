"""`stars compile`: artifacts, then what they answer and how long they take, as compile.json."""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from engine.bundle import Bundle
from engine.errors import CompileError
from engine.manifest import source_commit
from engine.ops import MAX_K

from .artifacts import Artifacts, Asked, buckets_of, make_artifacts
from .bridge import KernelShapes, bridge_report
from .engines import add_engines
from .export import export
from .parity import Judge, Parity, check, parity, runnable
from .process import compiling_process
from .rivals import Race, race
from .subject import Subject

REPORT_FILE = "compile.json"
_PACKAGES = (
    "torch", "triton", "onnx", "onnxruntime", "openvino", "tensorrt-rtx-cu13", "tensorrt-cu13",
)  # fmt: skip


def compile_model(
    subject: Subject,
    folder: Path,
    *,
    targets: Sequence[Asked],
    sms: Sequence[int],
    kernel_sms: Sequence[int],
    threads: int = 2,
    rounds: int = 60,
    serve: bool = False,
    command: str = "",
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Makes `targets` in `folder`, measures them, and writes compile.json beside them.

    Args:
        subject: what is compiled.
        targets: what is made. Parity and times are those of the runtimes that can run here what was
            made; times come with the CPU's graphs.
        sms: cards of TensorRT-RTX's engines. kernel_sms: of the bridge's kernels.
        threads: of everything that is timed.
        rounds: times each contender runs; 0 times nothing.
        serve: also write `folder`/bundle, which `stars serve` takes, with the engines in it.
        command: that is stored with the result.
        progress: told what begins.
    Returns:
        What compile.json holds.
    Raises:
        BackendUnavailable: a target cannot be built here; says what to install.
        CompileError: a build failed, a kernel was refused, or parity does not hold; compile.json
            is written all the same, the bundle is not.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        begin = time.perf_counter()
        with _bridge(subject, kernel_sms if "bridge" in targets else ()) as bridge:
            made = make_artifacts(subject, targets, sms, folder, progress)
            progress("bridge: kernels of the fused plan")
            kernels = bridge.result()
        seconds = time.perf_counter() - begin
        rows = _parity(subject, made, threads, progress)
        load = os.getloadavg()[0]
        found = _race(subject, made, threads, rounds, progress)
    finally:
        torch.set_num_threads(before)
    report = {
        "command": command,
        "commit": source_commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "model": subject.config.model.model_dump(),
        "weights": subject.weights,
        "threads": threads,
        "build_seconds": round(seconds, 1),
        "artifacts": [artifact._asdict() for artifact in made.rows],
        "parity": [row.row() for row in rows],
        "encoder_ms": found and found.encoder_ms,
        "append_ms": found and found.append_ms,
        "append_alone_ms": found and found.append_alone_ms,
        "rounds": rounds,
        "load_before_timing": round(load, 2),
        "contenders": found.contenders if found else [],
        "bridge": kernels,
    }
    (folder / REPORT_FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    check(rows)
    refused = [entry["refused"] for entry in kernels if not entry["assembled"]]
    if refused:
        raise CompileError("bridge: " + "; ".join(refused))
    if serve:
        progress("bundle")
        _write_bundle(subject, made, folder / "bundle", threads)
    return report


def _write_bundle(subject: Subject, made: Artifacts, folder: Path, threads: int) -> None:
    bundle = subject.bundle
    if bundle is None:
        export(subject.model, subject.dataset, subject.config, subject.cut, folder, 0.0, threads)
        bundle = Bundle.open(folder)
    add_engines(bundle, [*made.plans.values(), *made.rankers.values()], folder)


@contextmanager
def _bridge(subject: Subject, sms: Sequence[int]) -> Iterator[Future[list[dict[str, Any]]]]:
    """The bridge's entries, compiled in a process beside this one."""
    if not sms:
        done: Future[list[dict[str, Any]]] = Future()
        done.set_result([])
        yield done
        return
    config, dataset = subject.config.model, subject.dataset
    shapes = KernelShapes.of(
        config, len(subject.rows), len(dataset.meta.event_types), len(dataset.meta.signals), MAX_K
    )
    with compiling_process() as pool:
        yield pool.submit(bridge_report, shapes, buckets_of(config.window), tuple(sms))


def _parity(
    subject: Subject, made: Artifacts, threads: int, progress: Callable[[str], None]
) -> list[Parity]:
    """Of each runtime that can run one of the graphs or plans; torch needs neither."""
    which = [
        (runtime, precision)
        for runtime, precision in runnable()
        if (runtime, precision) in made.plans
        or (runtime in ("onnxruntime", "openvino") and precision in made.graphs)
        or (runtime == "torch" and made.graphs)
    ]
    if not which:
        return []
    progress("parity: torch fp32, the reference")
    judge = Judge(subject, threads)
    return list(parity(judge, made.graphs, made.plans, threads, which, progress))


def _race(
    subject: Subject, made: Artifacts, threads: int, rounds: int, progress: Callable[[str], None]
) -> Race | None:
    """Times, where both graphs of the CPU were made."""
    if not rounds or not {"fp32", "int8"} <= made.graphs.keys():
        return None
    progress(f"times: {rounds} rounds, {threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        return race(
            subject.model,
            made.graphs,
            made.append,
            Path(folder),
            subject.calibration(),
            threads=threads,
            rounds=rounds,
        )


def _versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # an extra that this machine does without
            continue
    return found
