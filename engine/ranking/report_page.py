"""The ranking report as one page of HTML that needs no network: what is claimed, what was found."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from .report_charts import Bar, Point, curves, differences
from .report_template import TEMPLATE

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """Text of a table; `clear` is bold: an interval clear of zero."""

    text: str
    clear: bool = False


@dataclass(frozen=True)
class Table:
    """`names` columns from the left hold words."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    names: int = 1


@dataclass(frozen=True)
class Claim:
    """What a paper says, and what was found of it."""

    text: str
    found: str
    verdict: str  # holds, does not hold, not clear


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    asked: str
    claims: Sequence[Claim] = ()
    charts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    missing: str = ""
    anchor: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchor", self.title.lower().replace(" ", "-"))


def page(report: Row) -> str:
    """The report as HTML."""
    sections = [harmonrank(report), dpp(report), latency(report)]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(TEMPLATE).render(sections=sections, report=report)


def claim(text: str, minus: Row, where: str) -> Claim:
    """A claim of a gain, by the difference and its interval."""
    found = f"{where}: {_signed(minus)}"
    if minus["low"] > 0:
        return Claim(text, found, "holds")
    return Claim(text, found, "does not hold" if minus["high"] < 0 else "not clear")


def harmonrank(report: Row) -> Section:
    """Fusion of objectives."""
    asked = (
        "Does one score order better for all objectives at once when it is trained through soft"
        " ranks, than by summed cross-entropies, by the pairwise surrogate, or with fixed weights?"
    )
    found = report.get("harmonrank")
    if found is None:
        return Section("HarmonRank", asked, missing="harmonrank")
    claims, charts, tables = [], [], []
    for dataset, baselines in found["baselines"].items():
        for name, text in (
            ("bce", "Soft ranks order better than summed cross-entropies"),
            ("pairwise", "Soft ranks order better than the pairwise surrogate"),
        ):
            claims.append(claim(text, baselines[name]["harmonrank_minus"], dataset))
        bars = [
            Bar(_plain(name), *(one["harmonrank_minus"][k] for k in ("mean", "low", "high")))
            for name, one in baselines.items()
            if name != "oracle"
        ]
        charts.append(differences(f"HarmonRank less the others: {dataset}", bars, "mean AUC"))
        ours = (found["mean_auc"][dataset], found["ci"][dataset])
        rows = [[Cell("HarmonRank"), Cell(_area(*ours)), Cell("")]]
        rows += [
            [
                Cell(_plain(name)),
                Cell(_area(one["mean_auc"], one["ci"])),
                _difference(one["harmonrank_minus"]),
            ]
            for name, one in baselines.items()
        ]
        heads = ("fused by", "mean AUC [95 %]", "HarmonRank less it [95 %]")
        tables.append(Table(dataset, heads, rows))
    charts += _sweeps(found)
    tables += _by_skew(found)
    return Section("HarmonRank", asked, claims, charts, tables)


def dpp(report: Row) -> Section:
    """Diversity of a page."""
    asked = (
        "How much relevance does a page give up for items that differ? θ = 1 is the order of"
        " relevance. Means over requests."
    )
    rows = report.get("dpp", {}).get("curve", [])
    if not rows:
        return Section("Diversity", asked, missing="dpp")
    lines, tables = {}, []
    for dataset, found in by_dataset(rows):
        lines[dataset] = [
            Point(row["similarity"], row["relevance"], *row["relevance_ci"]) for row in found
        ]
        names = [n for n in ("relevance", "similarity", "kept", "worth") if n in found[0]]
        cells = [
            [
                Cell(f"{row['theta']:.2f}"),
                *(Cell(_area(row[n], row[f"{n}_ci"])) for n in names),
            ]
            for row in found
        ]
        tables.append(Table(dataset, ("θ", *(f"{_DPP[n]} [95 %]" for n in names)), cells))
    title = "Relevance against likeness, θ from 1 (right) down"
    chart = curves(title, lines, "mean (1 + cos)/2 of a page's pairs", "relevance, deviations")
    return Section("Diversity", asked, charts=[chart], tables=tables)


def latency(report: Row) -> Section:
    """Times of the ranking stages."""
    asked = "How long do ranking 200 candidates, fusing and laying out a page of 20 take?"
    found = report.get("latency_ms")
    if found is None:
        return Section("Latency", asked, missing="latency_ms")
    rows = [
        [Cell(_STAGES.get(name, name)), Cell(f"{of['p50']:.3f}"), Cell(f"{of['p99']:.3f}")]
        for name, of in found.items()
        if isinstance(of, Mapping) and {"p50", "p99"} <= set(of)
    ]
    return Section("Latency", asked, tables=[Table("", ("stage", "p50 ms", "p99 ms"), rows)])


def by_dataset(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows of each dataset, in order of first appearance."""
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        yield dataset, [row for row in rows if row["dataset"] == dataset]


_STAGES = {"rank200": "rank 200", "fuse": "fuse", "page20": "page of 20", "total": "all three"}
_DPP = {
    "relevance": "relevance, deviations",
    "similarity": "likeness of pairs",
    "kept": "share of the most relevant kept",
    "worth": "effective watches expected",
}


def _sweeps(found: Row) -> list[str]:
    """Charts of mean AUC over c, and over skew as differences."""
    charts = []
    for dataset, rows in by_dataset(found.get("epsilon", [])):
        points = [Point(row["c"], row["mean_auc"], *row["ci"]) for row in rows]
        title = f"ε = c·deviation/n: {dataset}"
        charts.append(curves(title, {"HarmonRank": points}, "c", "mean AUC", log=True))
    for dataset, rows in by_dataset(found.get("skew", [])):
        lines = {}
        for name in ("bce", "pairwise"):
            points = [
                Point(row["skew"], *(row["baselines"][name]["harmonrank_minus"][k] for k in _MINUS))
                for row in sorted(rows, key=lambda row: float(row["skew"]))
            ]
            lines[f"less {_plain(name)}"] = points
        title = f"Gain over label skew: {dataset}"
        charts.append(
            curves(title, lines, "most frequent rate over the rarest", "mean AUC", log=True)
        )
    return charts


def _by_skew(found: Row) -> list[Table]:
    """One table a dataset: differences at every skew and c."""
    tables = []
    for dataset, rows in by_dataset(found.get("skew", [])):
        names = [name for name in rows[0]["baselines"] if name != "oracle"]
        cells = [
            [
                Cell(f"{row['skew']:g}"),
                Cell(_area(row["mean_auc"], row["ci"])),
                *(_difference(row["baselines"][name]["harmonrank_minus"]) for name in names),
            ]
            for row in rows
        ]
        heads = ("skew", "HarmonRank [95 %]", *(f"less {_plain(name)}" for name in names))
        tables.append(Table(f"{dataset}: label skew", heads, cells))
    for dataset, rows in by_dataset(found.get("epsilon", [])):
        cells = [
            [
                Cell(f"{row['c']:g}"),
                Cell(f"{row['blocks']:.3f}"),
                Cell(_area(row["mean_auc"], row["ci"])),
                _difference(row["harmonrank_minus"]),
            ]
            for row in rows
        ]
        heads = ("c", "blocks / n", "mean AUC [95 %]", "c as shipped less it [95 %]")
        tables.append(Table(f"{dataset}: ε", heads, cells))
    return tables


_MINUS = ("mean", "low", "high")


def _area(mean: float, ci: Sequence[float]) -> str:
    return f"{mean:.4f} [{ci[0]:.4f}, {ci[1]:.4f}]"


def _signed(minus: Row) -> str:
    return f"{minus['mean']:+.4f} [{minus['low']:+.4f}, {minus['high']:+.4f}]"


def _difference(minus: Row) -> Cell:
    """Bold where its interval is clear of zero, else it says that it is not."""
    clear = minus["low"] > 0 or minus["high"] < 0
    if minus["low"] == minus["high"] == 0:
        return Cell("the same")
    return Cell(_signed(minus) + ("" if clear else ", not clear"), clear)


def _plain(name: str) -> str:
    names = {"bce": "summed cross-entropies", "pairwise": "pairwise surrogate"}
    return names.get(name, name.replace("_", " "))
