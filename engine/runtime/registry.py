"""The runtimes by name: which of them this machine can run, and why not the rest."""

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from engine.errors import BackendUnavailable, ConfigError

from .append import AppendEncoder
from .inputs import Encoder
from .onnx_cpu import OnnxAppendEncoder, OnnxEncoder
from .openvino import OpenVinoAppendEncoder, OpenVinoEncoder
from .sidecar import Bucket, Target
from .tensorrt import TensorRtEncoder, driver_branch, load_module

GraphRuntime = Literal["onnxruntime", "openvino"]
GraphPrecision = Literal["fp32", "int8"]
# Multiply-adds of the layers for one event, from which OpenVINO's int8 pays: with fewer, what a
# call costs beside them decides, and ONNX Runtime's is smaller (`stars compile` measures both).
LARGE = 4_000_000


class Choice(NamedTuple):
    """A runtime of the CPU, the precision of its graph, and the reason for them."""

    runtime: GraphRuntime
    precision: GraphPrecision
    reason: str


def choose(asked: str, model: Mapping[str, Any]) -> Choice:
    """What runs the encoder on a CPU.

    Args:
        asked: a runtime and a precision, as in "openvino-int8", or "auto".
        model: the model's configuration.
    Raises:
        ConfigError: another name.
    """
    for runtime in get_args(GraphRuntime):
        for precision in get_args(GraphPrecision):
            if asked == f"{runtime}-{precision}":
                return Choice(runtime, precision, "asked for")
    if asked != "auto":
        raise ConfigError(
            f"encoder: expected auto, or onnxruntime or openvino with -fp32 or -int8, got {asked!r}"
        )
    d, feed, layers = model["d_model"], model["d_ff"], model["layers"]
    work = layers * (4 * d * d + 2 * d * feed)
    said = f"{work / 1e6:.1f} million multiply-adds an event, int8 pays from {LARGE / 1e6:.0f} on"
    if work >= LARGE:
        return Choice("openvino", "int8", said)
    return Choice("onnxruntime", "fp32", said)


class Status(NamedTuple):
    """Whether this machine can run a runtime; `detail` is its version, or what is missing."""

    name: str
    available: bool
    detail: str


def open_graph(choice: Choice, path: Path, window: int, threads: int = 1) -> Encoder:
    """The encoder of an `encode` graph on the CPU.

    Args:
        choice: of runtime and precision; the graph is of this precision.
        path: the graph.
        window: of the model; a full window of one user is what is made fastest.
        threads: threads of one call.
    Raises:
        BackendUnavailable, BundleError: see the runtime.
    """
    if choice.runtime == "onnxruntime":
        return OnnxEncoder(path, threads)
    return OpenVinoEncoder(path, threads, (Bucket(1, window),), exact=choice.precision == "fp32")


def open_append(choice: Choice, path: Path, window: int, threads: int = 1) -> AppendEncoder:
    """The encoder of an `append` graph on the CPU; arguments and errors as of `open_graph`."""
    if choice.runtime == "onnxruntime":
        return OnnxAppendEncoder(path, window + 1, threads)
    return OpenVinoAppendEncoder(path, window + 1, threads, exact=choice.precision == "fp32")


def open_plan(runtime: Target, path: Path, graph_sha256: str | None = None) -> Encoder:
    """The encoder of a plan or engine on the card; raises as `TensorRtEncoder` does."""
    return TensorRtEncoder(path, runtime, graph_sha256)


def statuses() -> list[Status]:
    """Every runtime, in the order of the README."""
    probes: dict[str, Callable[[], str]] = {
        "torch": _torch,
        "onnxruntime": lambda: _package("onnxruntime"),
        "openvino": lambda: _package("openvino"),
        "tensorrt": lambda: _card("tensorrt"),
        "tensorrt-rtx": lambda: _card("tensorrt-rtx"),
    }
    found = []
    for name, probe in probes.items():
        try:
            found.append(Status(name, True, probe()))
        except BackendUnavailable as error:
            found.append(Status(name, False, str(error).removeprefix(f"runtime {name}: ")))
    return found


def _package(name: str) -> str:
    """Version of an installed package. Raises BackendUnavailable where there is none."""
    try:
        if find_spec(name) is not None:
            return version(name)
    except (ValueError, PackageNotFoundError):  # find_spec: a module without a spec
        pass
    raise BackendUnavailable(f"expected the package {name}, got none; `pip install {name}`")


def _torch() -> str:
    installed = _package("torch")
    import torch

    return f"{installed}, {'GPU and CPU' if torch.cuda.is_available() else 'CPU'}"


def _card(target: Target) -> str:
    """Version of the package and driver. Raises BackendUnavailable for what is missing."""
    module = load_module(target)
    driver = driver_branch()
    if driver is None:
        builds = "; it builds engines here all the same" if target == "tensorrt-rtx" else ""
        raise BackendUnavailable(f"expected an NVIDIA GPU with its driver, got none{builds}")
    return f"{module.__version__}, driver {driver}"
