"""Tables of `stars report`'s stored result."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.evaluation.report.page import sections
from engine.evaluation.report.page_parts import amazon
from engine.evaluation.report.page_tables import ablation, discovery, main_table, rolling
from engine.reporting.tables import Section, Table

from .markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "engine" / "evaluation" / "README.md"
RESULT = ROOT / "benchmarks" / "results" / "quality.json"


def claims_table(report: dict[str, Any]) -> str:
    """A row a claim: what was found of it."""
    rows = [
        (section.title, claim.text, claim.verdict, claim.found)
        for section in sections(report)
        for claim in section.claims
    ]
    return markdown_table(("", "claim", "here", "found"), rows)


def shop_table(
    section: Callable[[Any], Section], place: int = 0
) -> Callable[[dict[str, Any]], str]:
    """One table of a section of Complete Journey."""

    def table(report: dict[str, Any]) -> str:
        return _markdown(section(report["complete_journey"]).tables[place])

    return table


def amazon_table(report: dict[str, Any]) -> str:
    """Both protocols, one below the other."""
    tables = amazon(report["amazon_beauty"]).tables
    return "\n\n".join(f"{table.title}\n\n{_markdown(table)}" for table in tables)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "quality_claims": claims_table,
    "quality_main": shop_table(main_table),
    "quality_cuts": shop_table(rolling),
    "quality_discovery": shop_table(discovery),
    "quality_ablation": shop_table(ablation),
    "quality_amazon": amazon_table,
}


def _markdown(table: Table) -> str:
    return markdown_table(table.heads, [[cell.text for cell in row] for row in table.rows])


def store(report: Path) -> None:
    """Keeps a report as it is, without the spaces."""
    RESULT.write_text(json.dumps(json.loads(report.read_text()), separators=(",", ":")) + "\n")
