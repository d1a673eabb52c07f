"""The operators: times beside what a user would pick, and the exact numbers of their kernels.

Times are of a GPU where there is one; else of the references on the CPU, since Triton's interpreter
is for results, not for speed. Bytes, resources and results need no GPU.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import faiss
import torch

from benchmarks import operators
from benchmarks.case import ENGINE, Case, Opener, Read, Setting, Timed
from benchmarks.kernel_numbers import numbers
from benchmarks.operators import TOLERANCE, Operator, Way

from .encoder import torch_threads

ROUNDS = 10


def _timed(name: str, made: Callable[[str], Operator]) -> Opener:
    @contextmanager
    def opened(setting: Setting) -> Iterator[Case]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        faiss.omp_set_num_threads(setting.threads)
        with torch_threads(setting.threads):
            operator = made(device)

            def check(way: str) -> None:
                operator.check(way, TOLERANCE[device])

            ways: Mapping[str, Callable[[], object]] = operator.ways
            if device == "cuda":
                ways = {name: Waited(way) for name, way in operator.ways.items()}
            dtype = str(operators.dtype_of(device)).removeprefix("torch.")
            shapes = {**operator.parameters, "dtype": dtype, "device": device}
            shapes["threads"] = setting.threads
            yield Timed(name, shapes, ways, check, ROUNDS, operator.nbytes, operator.flops)

    return opened


@dataclass(frozen=True)
class Waited:
    """A call on a GPU that ends when the GPU has; `launch` does not wait."""

    launch: Way

    def __call__(self) -> None:
        self.launch()
        torch.cuda.synchronize()


def _exact(name: str, which: str) -> Opener:
    """Numbers of `benchmarks.kernel_numbers`, which has their names; as ENGINE's way."""

    @contextmanager
    def opened(setting: Setting) -> Iterator[Case]:
        yield Read(name, {}, lambda: {ENGINE: numbers(which)}, exact=True)

    return opened


CASES: dict[str, Opener] = {
    "token_assembly": _timed("token_assembly", operators.tokens),
    "attention": _timed("attention", partial(operators.attending, n_queries=None)),
    "pooled_attention": _timed("pooled_attention", partial(operators.attending, n_queries=2)),
    "candidate_softmax": _timed("candidate_softmax", operators.losses),
    "score_topk": _timed("score_topk", operators.best),
    "token_gate": _timed("token_gate", operators.gated),
    "kernel_bytes": _exact("kernel_bytes", "bytes"),
    "kernel_resources": _exact("kernel_resources", "resources"),
    "kernel_results": _exact("kernel_results", "results"),
}
