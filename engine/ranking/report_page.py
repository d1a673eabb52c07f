"""The ranking report as one page of HTML: what is claimed, what was found."""

from collections.abc import Mapping

from engine.reporting.page import page
from engine.reporting.tables import Cell, Row, Section, Table

from .report_fusion import dpp, harmonrank
from .report_models import sarm, wesing

STAGES = {"rank200": "rank 200", "fuse": "fuse", "page20": "page of 20", "total": "all three"}
_INTRO = (
    "Differences come with 95 % intervals: bold where clear of zero. What a paper claims is said to"
    " hold, not to hold or not to be clear by these numbers alone."
)


def ranking_page(report: Row) -> str:
    """The report as HTML."""
    sections = [part(report) for part in (sarm, wesing, harmonrank, dpp, latency)]
    return page("ranking", _INTRO, sections, report)


def latency(report: Row) -> Section:
    """Times of the ranking stages."""
    title = "Latency"
    asked = "How long do ranking 200 candidates, fusing and laying out a page of 20 take?"
    found = report.get("latency_ms")
    if found is None:
        return Section(title, asked, missing="latency_ms")
    rows = [
        [Cell(STAGES.get(name, name)), Cell(f"{of['p50']:.3f}"), Cell(f"{of['p99']:.3f}")]
        for name, of in found.items()
        if isinstance(of, Mapping) and {"p50", "p99"} <= set(of)
    ]
    return Section(title, asked, tables=[Table("", ("stage", "p50 ms", "p99 ms"), rows)])
