"""Builds plans of TensorRT (10.12 to 11) and engines of TensorRT-RTX from the exported graph.

One code for both: the Python API is the same, and only what both have is called (the names are
listed in `tensorrt_api.json`, which a test compares with the published bindings). They differ in
where they build: TensorRT on the card that will run the plan, TensorRT-RTX anywhere, for a list of
cards. Networks are strongly typed: precision is in the graph, never in a builder's flag.

The module is an argument, so that a stand-in can take its place where TensorRT is not.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import CompileError
from engine.runtime.sidecar import (
    Bucket,
    KernelContent,
    PlanPrecision,
    Sidecar,
    Target,
    driver_floor,
    sha256,
)

from .inspect import NetworkReport, inspect_network

RTX_SMS = (75, 80, 86, 89, 120, 121)
DEFAULT_BUCKETS = tuple(Bucket(b, n) for n in (50, 100, 200) for b in (1, 8, 32))
CUDA_MAJOR = 13  # of the wheels that the extras name


@dataclass(frozen=True)
class Plan:
    """A built plan or engine.

    Attributes:
        content: the serialised bytes, which `write_plan` stores with the sidecar.
        network: types and shapes before the build.
        timing_cache: to hand to the next build; empty for TensorRT-RTX, which times on the card.
    """

    content: bytes
    sidecar: Sidecar
    network: NetworkReport
    timing_cache: bytes
    seconds: float


def build_plan(
    trt: Any,
    target: Target,
    graph: bytes,
    precision: PlanPrecision,
    buckets: Sequence[Bucket],
    *,
    sms: Sequence[int],
    half: PlanPrecision = "fp16",
    version_compatible: bool = False,
    timing_cache: bytes = b"",
    kernels: KernelContent | None = None,
) -> Plan:
    """Parses, inspects and builds `graph`.

    Args:
        trt: `engine.runtime.tensorrt.load_module(target)`.
        graph: the ONNX file, as `export_encoder` or `quantize` makes it.
        precision: of the graph; the network is held to it.
        buckets: one profile each, with min = opt = max: kernels are chosen for just that shape,
            and a CUDA graph can be captured for it.
        sms: cards, 80 for compute capability 8.0. TensorRT builds for the card it runs on: the
            one named here, which only the sidecar needs.
        half: with int8, the type of what is not quantised.
        version_compatible: TensorRT alone; the plan also loads in later versions, somewhat slower.
        timing_cache: of an earlier build on the same card; TensorRT alone.
        kernels: with `build_fused_plan`, what the fused graph holds.
    Raises:
        ValueError: no buckets, one twice, or cards that the target cannot build for.
        CompileError: the graph is refused, or its network is not in the precision asked for.
    """
    _check(target, buckets, sms, version_compatible)
    begin = time.perf_counter()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    # TensorRT 11 types every network so, and still accepts the flag that 10 needs.
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise CompileError(f"{target}: expected a graph that it parses, got {errors}")
    report = inspect_network(network)
    report.check(precision, half)
    config = builder.create_builder_config()
    for bucket in buckets:
        config.add_optimization_profile(_profile(builder, network, bucket))
    cache = None
    if target == "tensorrt-rtx":
        config.num_compute_capabilities = len(sms)
        for i, sm in enumerate(sms):
            capability = getattr(trt.ComputeCapability, f"SM{sm}")
            config.set_compute_capability(capability, i)
    else:
        cache = config.create_timing_cache(timing_cache)
        config.set_timing_cache(cache, ignore_mismatch=False)
        if version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise CompileError(f"{target}: the build failed; its log is above")
    content = bytes(built)
    sidecar = Sidecar(
        target=target,
        version=trt.__version__,
        version_compatible=version_compatible,
        sm=tuple(sms),
        driver_floor=driver_floor(CUDA_MAJOR, kernels and kernels.ptx_version),
        ptx_version=kernels and kernels.ptx_version,
        k_max=kernels and kernels.k_max,
        precision=precision,
        buckets=tuple(buckets),
        graph_sha256=sha256(graph) if kernels is None else kernels.graph_sha256,
        tables_sha256=kernels and kernels.tables_sha256,
        plan_sha256=sha256(content),
    )
    stored = b"" if cache is None else bytes(cache.serialize())
    return Plan(content, sidecar, report, stored, time.perf_counter() - begin)


def _profile(builder: Any, network: Any, bucket: Bucket) -> Any:
    """The bucket's shape for every input; what is dynamic is batch, then length."""
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        fixed = tuple(size if size >= 0 else bucket[axis] for axis, size in enumerate(tensor.shape))
        profile.set_shape(tensor.name, fixed, fixed, fixed)
    return profile


def _check(
    target: Target, buckets: Sequence[Bucket], sms: Sequence[int], version_compatible: bool
) -> None:
    if not buckets or len(set(buckets)) != len(buckets):
        raise ValueError(f"build_plan: buckets: expected distinct ones, got {list(buckets)}")
    if target == "tensorrt":
        if len(sms) != 1:
            raise ValueError(f"build_plan: sms: expected this machine's card, got {list(sms)}")
        return
    odd = sorted(set(sms) - set(RTX_SMS))
    if odd or not sms or len(set(sms)) != len(sms):
        raise ValueError(
            f"build_plan: sms: expected distinct ones of {list(RTX_SMS)}, got {list(sms)}"
        )
    if version_compatible:
        raise ValueError("build_plan: version_compatible: tensorrt-rtx has no such engines")
