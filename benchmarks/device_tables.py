"""Tables of benchmarks.device's stored rows: what a card took, beside floors and the model."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .case import ENGINE
from .stored import Row

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "device.json"
MODEL = ROOT / "benchmarks" / "results" / "kernels.json"
_SM = 90


def measured_table(rows: list[Row]) -> str:
    """Every shipped configuration: time, its floor at the card's ceilings, and the modelled time.

    The floor is the larger of ideal bytes over the copy's rate and operations over the product's.
    """
    ceilings = {row["case"]: row["statistics"] for row in rows if row["part"] == "ceilings"}
    found = {(row["case"], row["config"]): row for row in rows if row["part"] == "kernels"}
    lines = [
        f"{_card(rows, 'kernels')}: a copy moves {ceilings['copy']['gb_per_s']:,.0f} GB/s, an fp16 "
        f"product of 8192 x 8192 makes {ceilings['fp16 matmul']['tflop_per_s']:.0f} TFLOP/s, and a "
        f"kernel of one element takes {ceilings['one element']['p50_us']:.1f} µs by this clock.",
        "",
        "| op | configuration | µs | of it kernels | floor µs | µs / floor | modelled µs "
        "| µs / modelled |",
        "|" + "---|" * 8,
    ]
    for model in json.loads(MODEL.read_text())["rows"]:
        if model["sm"] != _SM or (model["op"], model["config"]) not in found:
            continue
        row = found[model["op"], model["config"]]
        taken, floor = row["statistics"]["p50_us"], floor_us(row, ceilings)
        kernels = min(taken, sum(launch["p50_us"] for launch in row["launches"]))
        lines.append(
            f"| {row['case']} | {row['config']} | {taken:.1f} | {kernels:.1f} | {floor:.1f} "
            f"| {taken / floor:.1f} | {model['modelled_us']:.1f} "
            f"| {taken / model['modelled_us']:.1f} |"
        )
    return "\n".join(lines)


def floor_us(row: Row, ceilings: dict[str, dict[str, float]]) -> float:
    """Microseconds that the ideal bytes or the products take at the measured ceilings."""
    by_bytes = row["ideal_bytes"] / ceilings["copy"]["gb_per_s"] / 1e3
    by_flops = row["flops"] / ceilings["fp16 matmul"]["tflop_per_s"] / 1e6
    return float(max(by_bytes, by_flops))


def operators_table(rows: list[Row]) -> str:
    """The operators' ways by the device's clock, the kernel first."""
    lines = [f"{_card(rows, 'operators')}.", "", "| operator | way | µs | µs / kernel |"]
    lines.append("|" + "---|" * 4)
    for row in _first(rows, "operators"):
        found = row["statistics"]
        lines.append(
            f"| {row['case'].replace('_', ' ')} | {_way(row)} | {found['p50_us']:.1f} "
            f"| {found['p50_ratio']:.2f} |"
        )
    return "\n".join(lines)


def model_table(rows: list[Row]) -> str:
    """The encoder from numpy to numpy, and a training step: milliseconds, kernels first."""
    lines = [
        f"{_card(rows, 'encoder')}.", "",
        "| | preset | of | way | p50 ms | p95 | p50 / kernels | peak MB |", "|" + "---|" * 8,
    ]  # fmt: skip
    for part in ("encoder", "training"):
        for row in _first(rows, part):
            found = row["statistics"]
            peak = f"{found['peak_mb']:.0f}" if "peak_mb" in found else ""
            lines.append(
                f"| {part} | {row['case']} | {row['config']} | {_way(row)} "
                f"| {found['p50_ms']:.2f} | {found['p95_ms']:.2f} | {found['p50_ratio']:.2f} "
                f"| {peak} |"
            )
    return "\n".join(lines)


def losses_table(rows: list[Row]) -> str:
    """The largest relative difference of the first steps' losses from the CPU's."""
    lines = ["| losses | way | largest relative difference |", "|---|---|---|"]
    for row in _first(rows, "losses"):
        if row["way"] != "cpu":
            apart = row["statistics"]["relative_difference"]
            lines.append(f"| {row['case']}, {row['config']} | {_way(row)} | {apart:.0e} |")
    return "\n".join(lines)


def _first(rows: list[Row], part: str) -> Iterable[Row]:
    """A part's rows as they are stored, the kernels' first of each case and configuration."""
    chosen = [row for row in rows if row["part"] == part]
    return sorted(chosen, key=lambda row: (row["case"], _natural(row), row["way"] != ENGINE))


def _natural(row: Row) -> list[Any]:
    """A configuration's words, numbers by their size."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in row["config"].split()]


def _way(row: Row) -> str:
    name = row["way"].replace("_", " ")
    return f"`{name}`" if row["way"] == ENGINE else name


def _card(rows: list[Row], part: str) -> str:
    """What a part was measured on."""
    row = next(row for row in rows if row["part"] == part)
    versions = ", ".join(f"{name} {value}" for name, value in row["versions"].items())
    return f"{row['device']}, driver {row['driver']}, {versions}, commit {row['commit'][:7]}"
