"""What a card took, beside the floor of its ceilings and the model; and the clock itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import device_tables
from benchmarks.device_clock import DeviceClock
from benchmarks.device_tables import floor_us, losses_table, measured_table, model_table

AROUND = {
    "device": "Card", "driver": "1.2", "commit": "0123456789", "versions": {"torch": "2.11.0"},
    "config": "",
}  # fmt: skip
CEILINGS: list[dict[str, Any]] = [
    {"part": "ceilings", "case": "copy", "statistics": {"gb_per_s": 2000.0}},
    {"part": "ceilings", "case": "fp16 matmul", "statistics": {"tflop_per_s": 500.0}},
    {"part": "ceilings", "case": "one element", "statistics": {"p50_us": 5.0}},
]
KERNEL: dict[str, Any] = AROUND | {
    "part": "kernels", "case": "op", "config": "c", "way": "stars", "statistics": {"p50_us": 30.0},
    "launches": [{"p50_us": 12.0}, {"p50_us": 8.0}], "ideal_bytes": 20_000_000, "flops": 0,
}  # fmt: skip


def by_case() -> dict[str, dict[str, float]]:
    return {row["case"]: row["statistics"] for row in CEILINGS}


def test_a_floor_is_the_slower_of_bytes_and_products() -> None:
    assert floor_us(KERNEL, by_case()) == pytest.approx(10.0)  # 20 MB at 2 TB/s
    heavy = KERNEL | {"flops": 10**10}
    assert floor_us(heavy, by_case()) == pytest.approx(20.0)  # 10 GFLOP at 500 TFLOP/s


def test_a_row_has_time_kernels_floor_and_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "kernels.json"
    models = [
        {"op": "op", "config": "c", "sm": 90, "modelled_us": 15.0},
        {"op": "op", "config": "c", "sm": 80, "modelled_us": 99.0},
        {"op": "op", "config": "not measured", "sm": 90, "modelled_us": 1.0},
    ]
    model.write_text(json.dumps({"rows": models}))
    monkeypatch.setattr(device_tables, "MODEL", model)
    lines = measured_table([*CEILINGS, KERNEL]).splitlines()
    assert lines[0].startswith("Card, driver 1.2, torch 2.11.0, commit 0123456: a copy moves 2,000")
    assert lines[-1] == "| op | c | 30.0 | 20.0 | 10.0 | 3.0 | 15.0 | 2.0 |"
    assert len(lines) == 5


def test_ways_stand_by_batch_with_the_kernels_first() -> None:
    def row(config: str, way: str, part: str = "encoder") -> dict[str, Any]:
        statistics = {"p50_ms": 1.0, "p95_ms": 2.0, "p50_ratio": 1.0, "relative_difference": 2e-7}
        return AROUND | {
            "part": part, "case": "small", "config": config, "way": way, "statistics": statistics
        }  # fmt: skip

    rows = [
        row("fp16, 32 x 200", "stars"), row("fp16, 8 x 200", "reference"),
        row("fp16, 8 x 200", "stars"), row("fp32", "cpu", "losses"),
        row("fp32", "reference_compiled", "losses"),
    ]  # fmt: skip
    found = [line.split(" | ")[2:4] for line in model_table(rows).splitlines()[4:]]
    assert found == [
        ["fp16, 8 x 200", "`stars`"], ["fp16, 8 x 200", "reference"],
        ["fp16, 32 x 200", "`stars`"],
    ]  # fmt: skip
    assert losses_table(rows).splitlines()[2:] == ["| small, fp32 | reference compiled | 2e-07 |"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: not run")
def test_the_clock_sees_the_device_and_not_the_launches() -> None:
    clock = DeviceClock()
    x = torch.randn(1 << 28, device="cuda", dtype=torch.float16)
    one, four = clock(lambda: x.add_(1)), clock(lambda: [x.add_(1) for _ in range(4)])
    assert four.p50 == pytest.approx(4 * one.p50, rel=0.1)
    assert clock(lambda: x[:1].add_(1)).p50 < 20  # a launch from Python takes longer
