"""Tables of `stars rank report`'s stored result."""

import json
from pathlib import Path
from typing import Any

from engine.ranking.report_fusion import harmonrank
from engine.ranking.report_models import sarm, wesing
from engine.ranking.report_page import STAGES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "engine" / "ranking" / "README.md"
RESULT = ROOT / "benchmarks" / "results" / "rank.json"


def claims_table(report: dict[str, Any]) -> str:
    """A row a claim of the works, a column a dataset: the difference and what it says of the claim.

    Differences are of the mean AUC over objectives (simulated: of GAUC), with 95 % intervals.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    for section in (sarm(report), wesing(report), harmonrank(report)):
        for claim in section.claims:
            place, difference = claim.found.split(": ")
            dataset, _, metric = place.partition(", ")
            if metric in ("", "AUC"):
                cell = f"{difference}, {claim.verdict}"
                found.setdefault((section.title, claim.text), {})[dataset] = cell
    datasets = sorted({dataset for cells in found.values() for dataset in cells})
    lines = [f"| | claim | {' | '.join(datasets)} |", "|---" * (2 + len(datasets)) + "|"]
    for (title, text), cells in found.items():
        row = " | ".join(cells.get(dataset, "") for dataset in datasets)
        lines.append(f"| {title} | {text} | {row} |")
    return "\n".join(lines)


def latency_table(report: dict[str, Any]) -> str:
    """Times of the stages after retrieval, in process."""
    found = report["latency_ms"]
    lines = ["| ms | p50 | p95 | p99 |", "|---|---|---|---|"]
    for name, what in STAGES.items():
        times = " | ".join(f"{found[name][f'p{p}']:.2f}" for p in (50, 95, 99))
        lines.append(f"| {what} | {times} |")
    return "\n".join(lines)


def store(report: Path) -> None:
    """Keeps a report as it is, without the spaces."""
    RESULT.write_text(json.dumps(json.loads(report.read_text()), separators=(",", ":")) + "\n")
