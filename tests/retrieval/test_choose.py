import subprocess
import sys

import numpy as np
import pytest
import torch

from engine.errors import BackendUnavailable, ConfigError
from engine.retrieval.approximate import ApproximateIndex
from engine.retrieval.choose import Choice, build, choose
from engine.retrieval.exact import ExactIndex
from engine.retrieval.quantised import QuantisedIndex


def test_auto_goes_by_size_and_device_and_says_why() -> None:
    assert choose("auto", 2_000, 64).backend == "exact"
    assert choose("auto", 68_399, 64).backend == "quantised"
    assert choose("auto", 1_000_000, 384).backend == "quantised"
    assert choose("auto", 10_000_000, 128).backend == "approximate"
    assert choose("auto", 2_000, 64, "cuda") == Choice(
        "exact",
        "cuda",
        "2,000 items x 64 are 128,000 numbers, scanned by score_topk on the device",
    )
    assert choose("auto", 10_000_000, 128, "cuda").backend == "exact"
    large = choose("auto", 100_000_000, 128, "cuda")
    assert large.backend == "approximate"
    assert large.reason == (
        "100,000,000 items x 128 are 12,800,000,000 numbers, "
        "more than the 4,000,000,000 of a fast exact scan"
    )


@pytest.mark.parametrize("backend", ["exact", "quantised", "approximate"])
def test_what_the_caller_asks_for_is_what_runs(backend: str) -> None:
    for size in (10, 10**9):
        found = choose(backend, size, 64)
        assert found == Choice(backend, "cpu", "the caller asked for it")  # type: ignore[arg-type]


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"index: expected one of .*'exact', .*, got 'faiss'"):
        choose("faiss", 10, 2)
    with pytest.raises(ValueError, match="device: expected cpu or cuda, got 'cuda:1'"):
        choose("auto", 10, 2, "cuda:1")
    with pytest.raises(BackendUnavailable, match="'quantised' runs on the CPU, device is 'cuda'"):
        choose("quantised", 10, 2, "cuda")


def test_build_makes_what_was_chosen() -> None:
    rows, bias = np.ones((300, 4), np.float32), np.zeros(300, np.float32)
    for backend, kind in (
        ("exact", ExactIndex),
        ("quantised", QuantisedIndex),
        ("approximate", ApproximateIndex),
    ):
        assert type(build(choose(backend, 300, 4), rows, bias)) is kind  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_is_said() -> None:
    choice = choose("auto", 300, 4, "cuda")
    with pytest.raises(BackendUnavailable, match="device 'cuda': expected a CUDA device, torch"):
        build(choice, np.ones((300, 4), np.float32), np.zeros(300, np.float32))


def test_no_index_of_the_cpu_imports_torch() -> None:
    program = (
        "import sys, numpy as np; from engine.retrieval.choose import build, choose\n"
        "for name in ('exact', 'quantised', 'approximate'):\n"
        "    build(choose(name, 99, 4), np.ones((99, 4), np.float32), np.zeros(99, np.float32))\n"
        "print({'torch', 'polars', 'pandas'} & set(sys.modules))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "set()"
