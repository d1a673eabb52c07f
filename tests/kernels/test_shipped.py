"""Every shipped configuration, compiled for four cards and traced: CI fails past a bound."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kernels import OPS
from kernels.cards import CARDS

STARS = Path(sys.executable).with_name("stars")
FIGURES = (
    "bytes_ratio", "unfused_ratio", "registers", "spill_bytes", "shared_bytes", "occupancy",
    "vector_load_share", "mma_count", "modelled_us",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    path = tmp_path_factory.mktemp("report") / "kernels.json"
    done = subprocess.run(
        [STARS, "kernels", "report", "--json", path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    return found


def test_every_op_ships_for_every_card(rows: list[dict[str, Any]]) -> None:
    assert {(row["op"], row["sm"]) for row in rows} == {(op, sm) for op in OPS for sm in CARDS}
    for row in rows:
        assert set(FIGURES) <= set(row)


def test_no_number_is_past_its_bound(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["breaches"] == []
        assert row["bytes_ratio"] <= row["bytes_bound"]
        assert row["spill_bytes"] == 0
        assert row["vector_load_share"] == 1


@pytest.mark.parametrize(
    ("op", "config", "bound"),
    [
        ("token_assembly", "folded", 1.05),
        ("attention", "causal", 1.40),
        ("attention", "pooled", 1.05),
        ("attention", "append", 1.05),
        ("score_topk", "k100", 1.10),
        ("candidate_softmax", "sampled fp16", 1.25),
        ("token_gate", "gate", 1.05),
    ],
)
def test_bytes_of_the_forward_forms(
    rows: list[dict[str, Any]], op: str, config: str, bound: float
) -> None:
    """The bounds that were set before the kernels were written."""
    held = [row for row in rows if row["op"] == op and config in row["config"]]
    assert held
    assert max(row["bytes_ratio"] for row in held) <= bound


@pytest.mark.parametrize(
    ("op", "figure", "least"),
    [
        ("token_assembly", "unfused_ratio", 4),
        ("score_topk", "unfused_ratio", 2),
        ("candidate_softmax", "peak_ratio", 20),
        ("token_gate", "unfused_ratio", 6),
    ],
)
def test_what_fusion_saves(rows: list[dict[str, Any]], op: str, figure: str, least: float) -> None:
    values = [row[figure] for row in rows if row["op"] == op and row[figure] is not None]
    assert values
    assert max(values) >= least
