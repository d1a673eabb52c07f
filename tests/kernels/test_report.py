"""What the report makes of bytes and resources; the shipped kernels are in test_shipped.py."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from kernels.case import Case, Step
from kernels.report import KernelRow, Moved, _row, as_json, report

KERNEL = KernelRow(
    name="k", grid=(10, 22), num_warps=4, num_stages=2, registers=64, spill_bytes=0,
    shared_bytes=16384, occupancy=0.5, vector_load_share=1.0, narrow_loads=(), dots=2, mma_count=8,
)  # fmt: skip


def never(device: torch.device) -> Callable[[], object]:
    raise AssertionError("a row needs no run")


CASE = Case(
    op="toy",
    config="paper",
    prepare=never,
    ideal_bytes=1_000_000,
    bytes_bound=1.05,
    flops=0,
    unfused=(Step("gather fp16", 3_000_000), Step("add fp16", 1_500_000)),
    unfused_bound=4.0,
    peak_bytes=10,
    unfused_peak_bytes=250,
    peak_bound=20.0,
)
MOVED = Moved(by_launch=(1_000_000,), cached_bytes=7, too_large=())


def test_a_row_within_its_bounds() -> None:
    row = _row(CASE, 80, [KERNEL], MOVED)
    assert row.breaches == ()
    assert (row.bytes_ratio, row.unfused_ratio, row.peak_ratio) == (1.0, 4.5, 25.0)
    assert (row.card, row.registers, row.mma_count, row.cached_bytes) == ("A100", 64, 8, 7)
    # 1 MB at 2.039 TB/s, 220 blocks on 108 multiprocessors: the busiest has three.
    assert row.modelled_us == pytest.approx(1e6 / 2.039e12 * 1e6 * 3 * 108 / 220, abs=0.01)
    assert _row(CASE, 120, [KERNEL], MOVED).modelled_us is None
    assert as_json([row])[0]["config"] == "paper"


def test_flops_rule_where_they_take_longer() -> None:
    row = _row(replace(CASE, flops=int(312e12)), 80, [KERNEL], MOVED)
    assert row.modelled_us == pytest.approx(1e6)


def test_a_case_of_several_kernels_is_as_good_as_its_worst() -> None:
    worse = replace(KERNEL, registers=200, shared_bytes=20000, occupancy=0.1, mma_count=1)
    moved = Moved((400_000, 600_000), 0, ())
    row = _row(replace(CASE, torch_bytes=50_000), 80, [KERNEL, worse], moved)
    assert (row.registers, row.shared_bytes, row.occupancy, row.mma_count) == (200, 20000, 0.1, 9)
    assert row.bytes_ratio == 1.05


@pytest.mark.parametrize(
    ("kernel", "breach"),
    [
        ({"spill_bytes": 8}, "k: 8 bytes of local memory a thread"),
        ({"shared_bytes": 200_000}, "k: 200000 bytes shared, A100 has fewer"),
        (
            {"vector_load_share": 0.9, "narrow_loads": ("x_ptr",)},
            "k: loads narrower than 16 bytes of x_ptr",
        ),
        ({"mma_count": 0}, "k: a matrix product without tensor cores"),
        ({"grid": (107,)}, "k: 107 blocks for 108 multiprocessors"),
    ],
)
def test_resources_past_their_bounds(kernel: dict[str, Any], breach: str) -> None:
    row = _row(CASE, 80, [replace(KERNEL, **kernel)], MOVED)
    assert row.breaches == (f"toy paper sm_80: {breach}",)


def test_few_blocks_with_a_reason_pass() -> None:
    row = _row(replace(CASE, why_few_blocks="one user"), 80, [replace(KERNEL, grid=(8,))], MOVED)
    assert row.breaches == ()
    assert row.why_few_blocks == "one user"


@pytest.mark.parametrize(
    ("case", "moved", "breach"),
    [
        ({}, {"by_launch": (1_060_000,)}, "bytes_ratio 1.060 above 1.05"),
        ({"unfused_bound": 5.0}, {}, "unfused_ratio 4.50 below 5.0"),
        ({"peak_bound": 30.0}, {}, "peak_ratio 25.0 below 30.0"),
        ({}, {"too_large": ("t_ptr",)}, "t_ptr counts as cached, and has 1000000 bytes or more"),
    ],
)
def test_bytes_past_their_bounds(case: dict[str, Any], moved: dict[str, Any], breach: str) -> None:
    row = _row(replace(CASE, **case), 80, [KERNEL], replace(MOVED, **moved))
    assert row.breaches == (f"toy paper sm_80: {breach}",)


def test_without_a_trace_only_the_compiler_speaks() -> None:
    row = _row(CASE, 80, [KERNEL], None)
    assert (row.bytes_ratio, row.moved_bytes, row.modelled_us, row.breaches) == (None,) * 3 + ((),)


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"kernels: op: expected some of \('token_assembly'"):
        report(["softmax"])
    with pytest.raises(ValueError, match=r"kernels: sm: expected some of \(80, 90, 100, 120\)"):
        report(["attention"], [75])
