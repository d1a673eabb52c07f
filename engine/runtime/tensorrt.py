"""Plans of TensorRT and engines of TensorRT-RTX: fixed shapes, a context and a CUDA graph each."""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable, BundleError

from .inputs import OUTPUTS, USER_INPUTS, Batch, GraphInput, Vectors, graph_batch
from .sidecar import Bucket, Machine, Target, read_plan

MODULES: dict[Target, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
INSTALL: dict[Target, str] = {
    "tensorrt": "`pip install 'stars-engine[gpu]'`, on a machine with an NVIDIA GPU",
    "tensorrt-rtx": "`pip install 'stars-engine[rtx]'`",
}
_DRIVER_FILE = Path("/proc/driver/nvidia/version")


def load_module(target: Target) -> Any:
    """The package of `target`. Raises BackendUnavailable where it cannot be imported."""
    try:
        return importlib.import_module(MODULES[target])
    except (ImportError, OSError, RuntimeError) as error:
        # TensorRT's wheel opens its libraries when it is imported: an OSError without them.
        raise BackendUnavailable(
            f"runtime {target}: expected the package {MODULES[target]}, got {error}; "
            f"install it with {INSTALL[target]}"
        ) from error


def driver_branch(path: Path = _DRIVER_FILE) -> int | None:
    """Branch of the loaded NVIDIA driver, 580 of 580.65.06; None where none is loaded."""
    try:
        found = re.search(r"Module\s+(?:for \S+\s+)?(\d+)\.", path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(found[1]) if found else None


def smallest(buckets: Sequence[Bucket], batch: int, length: int) -> Bucket:
    """The bucket with the fewest padded events that holds `batch` sequences of `length`.

    A batch larger than every bucket gets the largest that fits the length, and is cut.

    Raises:
        ValueError: no bucket is long enough.
    """
    long_enough = [bucket for bucket in buckets if bucket.length >= length]
    if not long_enough:
        longest = max(bucket.length for bucket in buckets)
        raise ValueError(f"encode: expected at most {longest} events, got {length}")
    holding = [bucket for bucket in long_enough if bucket.batch >= batch]
    if holding:
        return min(holding, key=lambda bucket: (bucket.batch * bucket.length, bucket.length))
    return min(long_enough, key=lambda bucket: (-bucket.batch, bucket.length))


def padded(inputs: Mapping[str, NDArray[Any]], bucket: Bucket) -> dict[str, NDArray[Any]]:
    """Inputs [b, l, …] or [b, …] with zeros up to the bucket: rows of length 0, masked inside."""
    made = {}
    for name, array in inputs.items():
        shape = bucket[:1] if name in USER_INPUTS else tuple(bucket)
        made[name] = np.zeros((*shape, *array.shape[len(shape) :]), array.dtype)
        made[name][tuple(slice(size) for size in array.shape)] = array
    return made


def by_bucket(
    inputs: Mapping[str, NDArray[Any]],
    buckets: Sequence[Bucket],
    run: Callable[[Mapping[str, NDArray[Any]], Bucket], Vectors],
) -> Vectors:
    """Vectors of a whole batch, padded to a bucket, or cut and padded where none is that large.

    Args:
        inputs: of `graph_batch`.
        run: gives the vectors of one padded bucket.
    Raises:
        ValueError: as `smallest` does.
    """
    n_users, length = inputs["rows"].shape[:2]
    answers: list[Vectors] = []
    start = 0
    while start < n_users or not answers:
        bucket = smallest(buckets, n_users - start, length)
        part = {name: array[start : start + bucket.batch] for name, array in inputs.items()}
        n_rows = min(bucket.batch, n_users - start)
        h_next, h_gen = run(padded(part, bucket), bucket)
        answers.append((h_next[:n_rows], h_gen[:n_rows]))
        start += bucket.batch
    h_next, h_gen = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    return h_next, h_gen


class TensorRtEncoder:
    """Runs a plan on the current card.

    Args:
        plan: the file; its sidecar lies beside it.
        target: `tensorrt` or `tensorrt-rtx`.
        graph_sha256: of the bundle's graph, to refuse a plan of another; None skips that.
    Raises:
        BackendUnavailable: the package, PyTorch with CUDA, a card or its driver is missing.
        BundleError: the plan is not for this machine, or is no plan with these outputs.
    """

    def __init__(self, plan: Path, target: Target, graph_sha256: str | None = None) -> None:
        trt = load_module(target)
        self._torch = _torch_with_cuda(target)
        machine = _machine(trt, self._torch)
        content, self.sidecar = read_plan(plan, target, machine, graph_sha256)
        if self.sidecar.k_max is not None:
            raise BundleError(
                f"{plan}: expected a plain plan, got a fused one, which also searches"
            )
        self._stream = self._torch.cuda.Stream()
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        # A version-compatible plan carries its own runtime: host code, from a hashed bundle.
        self._runtime.engine_host_code_allowed = self.sidecar.version_compatible
        self._engine = self._runtime.deserialize_cuda_engine(content)
        if self._engine is None:
            raise BundleError(f"{plan}: expected a plan that {target} loads; its log is above")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        if not set(OUTPUTS) <= set(names):
            raise BundleError(f"{plan}: expected the outputs {OUTPUTS}, got {names}")
        self._inputs = {
            name: GraphInput.of(name, _numpy(trt, self._engine, name), self._shape(name))
            for name in names
            if name not in OUTPUTS
        }
        self._contexts = {
            bucket: _BucketContext(self, index, bucket)
            for index, bucket in enumerate(self.sidecar.buckets)
        }

    def encode(self, batch: Batch) -> Vectors:
        """h_next and h_gen [B, d_serve] float32; raises ValueError as `graph_batch` does."""
        inputs = graph_batch(batch, self._inputs)
        return by_bucket(inputs, self.sidecar.buckets, lambda x, b: self._contexts[b].run(x))

    def _shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._engine.get_tensor_shape(name))


class _BucketContext:
    """One shape's context, its buffers on the card and, from the second run, its CUDA graph."""

    def __init__(self, encoder: TensorRtEncoder, profile: int, bucket: Bucket) -> None:
        torch, engine = encoder._torch, encoder._engine
        self._torch, self._stream = torch, encoder._stream
        self._context = engine.create_execution_context()
        self._context.set_optimization_profile_async(profile, self._stream.cuda_stream)
        self._buffers = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            shape = encoder._shape(name)
            fixed = tuple(n if n >= 0 else bucket[axis] for axis, n in enumerate(shape))
            kind = str(engine.get_tensor_dtype(name)).rsplit(".", maxsplit=1)[-1]
            buffer = torch.zeros(fixed, dtype=_dtypes(torch)[kind], device="cuda")
            self._buffers[name] = buffer
            self._context.set_tensor_address(name, buffer.data_ptr())
            if name not in OUTPUTS:
                self._context.set_input_shape(name, fixed)
        self._graph: Any = None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Vectors:
        """Both vectors of the whole bucket."""
        torch = self._torch
        with torch.cuda.stream(self._stream):
            for name, array in inputs.items():
                self._buffers[name].copy_(torch.from_numpy(array), non_blocking=True)
            if self._graph is None:
                # The first run lets TensorRT allocate, which a capture forbids.
                self._launch()
                self._stream.synchronize()
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph, stream=self._stream):
                    self._launch()
            self._graph.replay()
            answers = [self._buffers[name].cpu().numpy() for name in OUTPUTS]
        return answers[0], answers[1]

    def _launch(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise BackendUnavailable("runtime tensorrt: the card refused the launch; see its log")


def _torch_with_cuda(target: Target) -> Any:
    """PyTorch holds the card's memory, streams and graphs for the runtime."""
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable(
            f"runtime {target}: expected the package torch, got none; install it with "
            "`pip install torch`"
        ) from error
    if not torch.cuda.is_available() or driver_branch() is None:
        raise BackendUnavailable(
            f"runtime {target}: expected an NVIDIA GPU with its driver and a CUDA build of "
            f"PyTorch, got PyTorch {torch.__version__} and driver {driver_branch()}"
        )
    return torch


def _machine(trt: Any, torch: Any) -> Machine:
    major, minor = torch.cuda.get_device_capability()
    return Machine(trt.__version__, 10 * major + minor, driver_branch() or 0)


def _numpy(trt: Any, engine: Any, name: str) -> np.dtype[Any]:
    """The type that a batch's array is given in; bf16 is rounded on the card."""
    kind = engine.get_tensor_dtype(name)
    return np.dtype({trt.int32: np.int32, trt.float16: np.float16}.get(kind, np.float32))


def _dtypes(torch: Any) -> dict[str, Any]:
    return {
        "FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "INT32": torch.int32,
    }  # fmt: skip
