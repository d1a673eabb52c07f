"""The quality report as one page of HTML: what is claimed, what was found."""

from engine.reporting.page import page
from engine.reporting.tables import Row, Section

from .page_parts import amazon, by_candidates, by_category, cold, drift, households, prior
from .page_tables import ablation, discovery, main_table, rolling

_INTRO = (
    "What does a household buy first after a cut? STARS answers by the path that serves it, its"
    " rivals from the same past, all from the whole catalogue. Intervals are 95 %, by bootstrap"
    " over households; differences are of the same requests, bold where clear of zero."
)


def quality_page(report: Row) -> str:
    """The report as HTML."""
    return page("recommendation quality", _INTRO, sections(report), report)


def sections(report: Row) -> list[Section]:
    """What the report says, of what it has."""
    found: list[Section] = []
    shop = report.get("complete_journey")
    if shop is not None:
        parts = (
            main_table, rolling, discovery, ablation, by_candidates, by_category, households, cold,
            prior, drift,
        )  # fmt: skip
        found += [part(shop) for part in parts]
    if "amazon_beauty" in report:
        found.append(amazon(report["amazon_beauty"]))
    return found
