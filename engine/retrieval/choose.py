"""Which index serves a catalogue, and why."""

from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable, ConfigError

from .index import CheckedIndex

Backend = Literal["auto", "exact", "quantised", "approximate"]

# Numbers in a catalogue, N · D; benchmarks/results/retrieval.json has the curves behind them.
SMALL = 1_000_000  # below: a scan in fp32 takes less than the steps around a scan in 8 bits
LARGE_CPU = 600_000_000  # above: a scan in 8 bits takes tens of milliseconds
LARGE_GPU = 4_000_000_000  # above: 16 GB of rows on the device


@dataclass(frozen=True)
class Choice:
    """A backend, the device it runs on, and the reason."""

    backend: Literal["exact", "quantised", "approximate"]
    device: Literal["cpu", "cuda"]
    reason: str


def choose(asked: str, n_items: int, dim: int, device: str = "cpu") -> Choice:
    """The backend for N items of D dimensions on `device`, "cpu" or "cuda".

    Raises:
        ConfigError: an unknown backend; lists the known.
        ValueError: an unknown device.
        BackendUnavailable: "quantised" was asked for on a GPU.
    """
    if asked not in get_args(Backend):
        raise ConfigError(f"index: expected one of {get_args(Backend)}, got {asked!r}")
    backend = cast(Backend, asked)
    if device not in ("cpu", "cuda"):
        raise ValueError(f"retrieval: device: expected cpu or cuda, got {device!r}")
    on = cast(Literal["cpu", "cuda"], device)
    if backend == "quantised" and device == "cuda":
        raise BackendUnavailable(
            "retrieval: backend 'quantised' runs on the CPU, device is 'cuda'; ask for exact"
        )
    if backend != "auto":
        return Choice(backend, on, "the caller asked for it")
    numbers = n_items * dim
    size = f"{n_items:,} items x {dim} are {numbers:,} numbers"
    large = LARGE_GPU if device == "cuda" else LARGE_CPU
    if numbers > large:
        return Choice("approximate", on, f"{size}, more than the {large:,} of a fast exact scan")
    if device == "cuda":
        return Choice("exact", on, f"{size}, scanned by score_topk on the device")
    if numbers < SMALL:
        return Choice("exact", on, f"{size}, fewer than the {SMALL:,} from which 8 bits pay")
    return Choice("quantised", on, f"{size}, scanned in 8 bits with the exact answer")


def build(
    choice: Choice, candidates: NDArray[np.float32], bias: NDArray[np.float32], threads: int = 1
) -> CheckedIndex:
    """The index of a choice over candidates [N, D] float32 and bias [N] float32.

    Raises:
        ValueError, BackendUnavailable: as the index does.
    """
    # Each backend's libraries load with it alone: torch never does on a CPU.
    if choice.backend == "approximate":
        from .approximate import ApproximateIndex

        return ApproximateIndex(candidates, bias, threads, device=choice.device)
    if choice.device == "cuda":
        from .gpu import GpuIndex

        return GpuIndex(candidates, bias, threads)
    if choice.backend == "quantised":
        from .quantised import QuantisedIndex

        return QuantisedIndex(candidates, bias, threads)
    from .exact import ExactIndex

    return ExactIndex(candidates, bias, threads)
