"""The report's sections on the rankers: SARM's ladder and gate, WeSing's parts."""

from collections.abc import Sequence

from engine.reporting.charts import differences
from engine.reporting.tables import (
    Cell,
    Claim,
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

_METRICS = ("auc", "gauc")
_LISTS = {  # list: its title, and claims as better, worse
    "kfm": ("crosses of fields", (("kfm", "fm"), ("kfm_equal", "fm"))),
    "experts": ("experts", (("cgc", "shared_bottom"), ("cgc", "mmoe"), ("mmoe", "shared_bottom"))),
    "gradients": ("gradients", (("gradnorm", "sum"), ("pcgrad", "sum"))),
}


def sarm(report: Row) -> Section:
    """What texts of authors add to a ranker."""
    title = "SARM"
    asked = (
        "Does an encoder of authors' texts, trained with the ranker, order better than the ranker"
        " without it and than a frozen embedding of the same texts? And does the dual-token gate"
        " help?"
    )
    found = report.get("sarm")
    if found is None:
        return Section(title, asked, missing="sarm")
    claims, charts, tables = [], [], []
    for dataset, rows in by_dataset(found["ladder"]):
        full = next(row for row in rows if row["rung"] == "full")
        for name, text in (("base", "the base ranker"), ("frozen", "a frozen embedding")):
            claims += _claims(f"SARM orders better than {text}", full[f"minus_{name}"], dataset)
        frozen = next(row for row in rows if row["rung"] == "frozen")["minus_base"]
        loss = {metric: {"mean": _negative(frozen[metric]["mean"])} for metric in _METRICS}
        claims += _claims("A frozen embedding alone loses to the base ranker", loss, dataset)
        charts += [
            differences(
                f"Less the base ranker: {dataset}",
                [
                    bar(plain(row["rung"]), Minus.of(row["minus_base"][metric]["mean"]))
                    for row in rows
                    if "minus_base" in row
                ],
                f"mean {metric.upper()}",
            )
            for metric in _METRICS
        ]
        tables += [_ladder(rows, dataset, metric) for metric in _METRICS]
    for dataset, rows in by_dataset(found["gate"]):
        for row in rows:
            if "full_minus" in row:
                text = f"The gate orders better than {_variant(row)}"
                claims += _claims(text, row["full_minus"], dataset)
        tables.append(_gate(rows, dataset))
    for dataset, rows in by_dataset(found.get("low_exposure", [])):
        tables.append(_exposure(rows, dataset))
    return Section(title, asked, claims, charts, tables)


def wesing(report: Row) -> Section:
    """What kernels, experts and the handling of gradients add."""
    title = "WeSing"
    asked = (
        "Do crosses with a kernel order better than FM, experts of the tasks' own better than"
        " shared ones of as many parameters, and weighed or projected gradients better than their"
        " sum?"
    )
    found = report.get("wesing")
    if found is None:
        return Section(title, asked, missing="wesing")
    claims, charts, tables = [], [], []
    for name, (what, pairs) in _LISTS.items():
        for dataset, rows in by_dataset(found[name]):
            by_method = {row["method"]: row for row in rows}
            for better, worse in pairs:
                text = f"{plain(better)} orders better than {plain(worse)}"
                claims += _claims(text, by_method[better]["minus"][worse], dataset)
            tables += [_methods(rows, f"{dataset}: {what}", metric) for metric in _METRICS]
            bars = [
                bar(
                    f"{plain(better)} less {plain(worse)}, {metric.upper()}",
                    Minus.of(by_method[better]["minus"][worse][metric]["mean"]),
                )
                for better, worse in pairs
                for metric in _METRICS
            ]
            charts.append(differences(f"{dataset}: {what}", bars, "mean over objectives"))
    return Section(title, asked, claims, charts, tables)


def _claims(text: str, minus: Row, dataset: str) -> list[Claim]:
    """One a metric, of the mean over objectives."""
    return [
        claim(text, Minus.of(minus[metric]["mean"]), f"{dataset}, {metric.upper()}")
        for metric in _METRICS
    ]


def _negative(minus: Row) -> dict[str, float]:
    return {"mean": -minus["mean"], "low": -minus["high"], "high": -minus["low"]}


def _variant(row: Row) -> str:
    """Of the gate: the rung before it has no domain tokens."""
    return "no domain tokens" if row["rung"] == "identity" else str(row["adds"])


def _rung(row: Row) -> str:
    return f"{plain(row['rung'])}: {row['adds']}"


def _ladder(rows: Sequence[Row], dataset: str, metric: str) -> Table:
    """A rung a row, its differences, and its figure of each objective."""
    objectives = [name for name in rows[0][metric] if name != "mean"]
    cells = []
    for row in rows:
        minus = [
            difference(Minus.of(row[f"minus_{other}"][metric]["mean"]))
            if f"minus_{other}" in row
            else Cell("")
            for other in ("base", "frozen")
        ]
        mean = row[metric]["mean"]
        values = [Cell(f"{row[metric][name]['value']:.4f}") for name in objectives]
        cells.append([Cell(_rung(row)), area(mean["value"], mean["ci"]), *minus, *values])
    heads = ("rung", f"mean {metric.upper()} [95 %]", "less base", "less frozen", *objectives)
    return Table(f"{dataset}: ladder, {metric.upper()}", heads, cells)


def _gate(rows: Sequence[Row], dataset: str) -> Table:
    cells = [
        [
            Cell(_variant(row)),
            *(
                cell
                for metric in _METRICS
                for cell in (
                    area(row[metric]["mean"]["value"], row[metric]["mean"]["ci"]),
                    difference(Minus.of(row["full_minus"][metric]["mean"]))
                    if "full_minus" in row
                    else Cell(""),
                )
            ),
        ]
        for row in rows
    ]
    heads = (
        "variant",
        *(h for m in _METRICS for h in (f"mean {m.upper()} [95 %]", "gate less it")),
    )
    return Table(f"{dataset}: gate", heads, cells)


def _exposure(rows: Sequence[Row], dataset: str) -> Table:
    """Gains by how often the author was shown before."""
    cells = []
    for row in rows:
        above, up_to = row["above"], row["up_to"]
        shown = "never" if above is None else f"over {above}"
        if above is not None and up_to is not None:
            shown = f"{above + 1} to {up_to}"
        minus = [
            difference(Minus.of(row[f"minus_{name}"])) if f"minus_{name}" in row else Cell("")
            for name in ("base", "frozen")
        ]
        cells.append([Cell(shown), Cell(f"{row['impressions']:,}"), *minus])
    heads = ("author shown before", "impressions", "click AUC: full less base", "full less frozen")
    return Table(f"{dataset}: rarely shown authors", heads, cells)


def _methods(rows: Sequence[Row], title: str, metric: str) -> Table:
    """A method a row, less each of the others, and its figure of each objective."""
    methods = [row["method"] for row in rows]
    objectives = [name for name in rows[0][metric] if name != "mean"]
    cells = []
    for row in rows:
        mean = row[metric]["mean"]
        minus = [
            difference(Minus.of(row["minus"][other][metric]["mean"]))
            if other in row["minus"]
            else Cell("")
            for other in methods
        ]
        values = [Cell(f"{row[metric][name]['value']:.4f}") for name in objectives]
        cells.append(
            [
                Cell(plain(row["method"])),
                area(mean["value"], (mean["low"], mean["high"])),
                *minus,
                *values,
                Cell(f"{row['parameters']:,}"),
            ]
        )
    less = [f"less {plain(name)}" for name in methods]
    heads = ("method", f"mean {metric.upper()} [95 %]", *less, *objectives, "parameters of experts")
    return Table(f"{title}, {metric.upper()}", heads, cells)
