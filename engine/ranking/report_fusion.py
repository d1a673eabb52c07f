"""The report's sections on the fusion of objectives and on the page."""

from engine.reporting.charts import Point, curves, differences
from engine.reporting.tables import (
    Cell,
    Minus,
    Row,
    Section,
    Table,
    area,
    bar,
    by_dataset,
    claim,
    difference,
    plain,
)

_DPP = {
    "relevance": "relevance, deviations",
    "similarity": "likeness of pairs",
    "kept": "share of the most relevant kept",
    "worth": "effective watches expected",
    "kinds": "categories on the page",
}


def harmonrank(report: Row) -> Section:
    """Losses and weights that make one score of several."""
    title = "HarmonRank"
    asked = (
        "Does one score order better for all objectives at once when it is trained through soft"
        " ranks than by summed cross-entropies, by the pairwise surrogate, or with fixed weights?"
    )
    found = report.get("harmonrank")
    if found is None:
        return Section(title, asked, missing="harmonrank")
    claims, charts, tables = [], [], []
    for dataset, baselines in found["baselines"].items():
        minus = {name: Minus.of(one["harmonrank_minus"]) for name, one in baselines.items()}
        for name in ("bce", "pairwise"):
            claims.append(
                claim(f"Soft ranks order better than {plain(name)}", minus[name], dataset)
            )
        bars = [bar(plain(name), one) for name, one in minus.items() if name != "oracle"]
        charts.append(differences(f"HarmonRank less the others: {dataset}", bars, "mean AUC"))
        rows = [
            [Cell("HarmonRank"), area(found["mean_auc"][dataset], found["ci"][dataset]), Cell("")]
        ]
        rows += [
            [Cell(plain(name)), area(one["mean_auc"], one["ci"]), difference(minus[name])]
            for name, one in baselines.items()
        ]
        heads = ("fused by", "mean AUC [95 %]", "HarmonRank less it [95 %]")
        tables.append(Table(dataset, heads, rows))
    charts += [*_epsilon_charts(found), *_skew_charts(found)]
    tables += [*_skew_tables(found), *_epsilon_tables(found)]
    return Section(title, asked, claims, charts, tables)


def dpp(report: Row) -> Section:
    """Diversity of a page."""
    title = "Diversity"
    asked = (
        "How much relevance does a page give up for items that differ? θ = 1 is the order of"
        " relevance. Means over requests."
    )
    rows = report.get("dpp", {}).get("curve", [])
    if not rows:
        return Section(title, asked, missing="dpp")
    lines, tables = {}, []
    for dataset, found in by_dataset(rows):
        lines[dataset] = [
            Point(row["similarity"], row["relevance"], *row["relevance_ci"]) for row in found
        ]
        names = [name for name in _DPP if name in found[0]]
        cells = [
            [Cell(f"{row['theta']:.2f}"), *(area(row[name], row[f"{name}_ci"]) for name in names)]
            for row in found
        ]
        tables.append(Table(dataset, ("θ", *(f"{_DPP[name]} [95 %]" for name in names)), cells))
    chart = curves(
        "Relevance against likeness, θ from 1 (right) down", lines,
        "mean (1 + cos)/2 of a page's pairs", "relevance, deviations",
    )  # fmt: skip
    return Section(title, asked, charts=[chart], tables=tables)


def _epsilon_charts(found: Row) -> list[str]:
    charts = []
    for dataset, rows in by_dataset(found.get("epsilon", [])):
        points = [Point(row["c"], row["mean_auc"], *row["ci"]) for row in rows]
        title = f"ε = c·deviation/n: {dataset}"
        charts.append(curves(title, {"HarmonRank": points}, "c", "mean AUC", log=True))
    return charts


def _skew_charts(found: Row) -> list[str]:
    charts = []
    for dataset, rows in by_dataset(found.get("skew", [])):
        rows = sorted(rows, key=lambda row: float(row["skew"]))
        lines = {
            f"less {plain(name)}": [
                Point(row["skew"], *Minus.of(row["baselines"][name]["harmonrank_minus"]))
                for row in rows
            ]
            for name in ("bce", "pairwise")
        }
        title, x = f"Gain over label skew: {dataset}", "most frequent rate over the rarest"
        charts.append(curves(title, lines, x, "mean AUC", log=True))
    return charts


def _skew_tables(found: Row) -> list[Table]:
    tables = []
    for dataset, rows in by_dataset(found.get("skew", [])):
        names = [name for name in rows[0]["baselines"] if name != "oracle"]
        cells = [
            [
                Cell(f"{row['skew']:.3g}"),
                area(row["mean_auc"], row["ci"]),
                *(difference(Minus.of(row["baselines"][k]["harmonrank_minus"])) for k in names),
            ]
            for row in rows
        ]
        heads = ("skew", "HarmonRank [95 %]", *(f"less {plain(name)}" for name in names))
        tables.append(Table(f"{dataset}: label skew", heads, cells))
    return tables


def _epsilon_tables(found: Row) -> list[Table]:
    tables = []
    for dataset, rows in by_dataset(found.get("epsilon", [])):
        cells = [
            [
                Cell(f"{row['c']:g}"),
                Cell(f"{row['blocks']:.3f}"),
                area(row["mean_auc"], row["ci"]),
                difference(Minus.of(row["harmonrank_minus"])),
            ]
            for row in rows
        ]
        heads = ("c", "blocks / n", "mean AUC [95 %]", "c as shipped less it [95 %]")
        tables.append(Table(f"{dataset}: ε", heads, cells))
    return tables
