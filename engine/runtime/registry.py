"""The runtimes by name: which of them this machine can run, and why not the rest."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from engine.errors import BackendUnavailable

from .inputs import Encoder
from .onnx_cpu import OnnxEncoder
from .openvino import OpenVinoEncoder
from .sidecar import Target
from .tensorrt import TensorRtEncoder, driver_branch, load_module

GraphRuntime = Literal["onnxruntime", "openvino"]


class Status(NamedTuple):
    """Whether this machine can run a runtime; `detail` is its version, or what is missing."""

    name: str
    available: bool
    detail: str


def open_graph(runtime: GraphRuntime, path: Path, threads: int = 1) -> Encoder:
    """The encoder of an ONNX graph on the CPU.

    Raises:
        ValueError: no runtime of this name.
        BackendUnavailable, BundleError: see the runtime.
    """
    if runtime == "onnxruntime":
        return OnnxEncoder(path, threads)
    if runtime == "openvino":
        return OpenVinoEncoder(path, threads)
    raise ValueError(f"open_graph: runtime: expected onnxruntime or openvino, got {runtime!r}")


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
