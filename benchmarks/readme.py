"""Writes the README's tables from stored results: `python -m benchmarks.readme [REPORT]`.

REPORT, a report.json of `make demo`, is stored first. Each table stands between two markers,
`<!-- table:NAME -->` and `<!-- end -->`.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DEMO = ROOT / "benchmarks" / "results" / "demo.json"
_MEASURES = ("hit@5", "hit@10", "recall@10", "ndcg@10", "coverage@10")


def quality_table(report: dict[str, Any]) -> str:
    """Measures of the demo's methods, and the paired differences below."""
    lines = [f"| | {' | '.join(_MEASURES)} |", "|---" * (len(_MEASURES) + 1) + "|"]
    for method, values in report["metrics"].items():
        cells = (f"{values[name]:.4f}" for name in _MEASURES)
        lines.append(f"| {method.replace('_', ' ')} | {' | '.join(cells)} |")
    lines.append("")
    for name, measures in report["comparison"].items():
        parts = (
            f"{measure} {v['mean']:+.4f} ({v['low']:+.4f} … {v['high']:+.4f})"
            for measure, v in measures.items()
        )
        lines.append(f"- {name.replace('_', ' ')}: {', '.join(parts)}")
    return "\n".join(lines)


def latency_table(report: dict[str, Any]) -> str:
    """Latency of a stored user's request beside the model that does nothing."""
    ours, null = report["latency_ms"], report["null_latency_ms"]
    return "\n".join(
        [
            "| ms | p50 | p95 | p99 | requests |",
            "|---|---|---|---|---|",
            f"| `stars` | {ours['p50']:.2f} | {ours['p95']:.2f} | {ours['p99']:.2f} "
            f"| {ours['n']} |",
            f"| null model | {null['p50']:.2f} | {null['p95']:.2f} | {null['p99']:.2f} "
            f"| {null['n']} |",
        ]
    )


TABLES = {"quality": quality_table, "latency": latency_table}


def rendered(readme: str) -> str:
    """The README's text with its tables made anew."""
    report = json.loads(DEMO.read_text())
    for name, table in TABLES.items():
        block = f"<!-- table:{name} -->\n{table(report)}\n<!-- end -->"
        pattern = rf"<!-- table:{name} -->\n.*?<!-- end -->"
        readme, found = re.subn(pattern, lambda _, text=block: text, readme, flags=re.S)
        if found != 1:
            raise ValueError(f"{README}: expected one place for table {name}, got {found}")
    return readme


def store(report: Path) -> None:
    """Keeps what the tables and their reader need of a demo's report."""
    made = json.loads(report.read_text())
    del made["recommendations"]  # products and households stay where the data is
    DEMO.parent.mkdir(exist_ok=True)
    DEMO.write_text(json.dumps({"command": "make demo", **made}, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:]:
        store(Path(sys.argv[1]))
    README.write_text(rendered(README.read_text()))
