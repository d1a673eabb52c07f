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
    """What the works claim, by the mean over objectives, and what was found of it."""
    lines = ["| | claim | difference (95 %) | |", "|---|---|---|---|"]
    for section in (sarm(report), wesing(report), harmonrank(report)):
        lines += [
            f"| {section.title} | {claim.text} | {claim.found} | {claim.verdict} |"
            for claim in section.claims
        ]
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
