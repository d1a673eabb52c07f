"""Sections by what is asked and for whom, and Amazon's."""

from engine.reporting.charts import Bar, Point, curves, differences
from engine.reporting.tables import Cell, Claim, Minus, Row, Section, Table, claim

from .page_tables import MEASURES, named, percent, reached, with_interval

_BARS = {"strict": (0.093, 0.054), "refit": (0.107, 0.062)}
_RIVALS = ("personal_recency", "lambdamart")


def by_candidates(shop: Row) -> Section:
    """Hit@5 by the size of the candidate set."""
    found = shop["by_candidates"]
    methods = list(dict.fromkeys(name for of in found.values() for name in of["hit@5"]))
    lines = {
        named(name): [
            Point(of["mean_size"], of["hit@5"][name]["mean"], *of["hit@5"][name]["ci"])
            for of in found.values()
        ]
        for name in methods
    }
    claims = [
        claim(
            f"Above LambdaMART among {size} candidates",
            Minus.of(of["stars_minus_lambdamart"]),
            f"Hit@5, {percent(of['gain'])}",
        )
        for size, of in found.items()
        if "stars_minus_lambdamart" in of
    ]
    rows = [
        [
            Cell(size),
            Cell(f"{of['requests']:,}"),
            *(
                Cell(f"{of['hit@5'][name]['mean']:.4f} [{of['hit@5'][name]['ci'][0]:.4f}, "
                     f"{of['hit@5'][name]['ci'][1]:.4f}]")
                for name in methods
            ),
        ]
        for size, of in found.items()
    ]  # fmt: skip
    return Section(
        "Candidate sets",
        "One bought item among products of the session's own subclasses: those that the store "
        "promoted that week, then the best sellers. The paper has +6 % to +265 % over LambdaMART.",
        claims,
        [curves("Hit@5 by candidates", lines, "candidates, mean of the bucket", "Hit@5", log=True)],
        [Table("", ("candidates", "requests", *map(named, methods)), rows)],
    )


def by_category(shop: Row) -> Section:
    """Best and worst categories."""
    found = shop["by_category"]
    heads = [name for name in ("round_robin", *_RIVALS) if name in (found["best"] or [{}])[0]]

    def rows(which: str) -> list[list[Cell]]:
        return [
            [
                Cell(row["category"]),
                Cell(f"{row['targets']:,}"),
                *(Cell(f"{row[name]:.3f}") for name in heads),
            ]
            for row in found[which]
        ]

    columns = ("category", "bought", *map(named, heads))
    return Section(
        "Product categories",
        f"Share of a category's bought items that stand in the ten; categories of at least "
        f"{found['least_targets']} bought items.",
        tables=[
            Table(f"{which.title()} for STARS", columns, rows(which))
            for which in ("best", "worst")
            if found[which]
        ],
    )


def households(shop: Row) -> Section:
    """Light and heavy households, and new ones."""
    groups, new = shop["by_history"], shop["newcomers"]
    claims = [
        claim(
            f"Round robin is above {named(rival)} for {group['households']} households",
            Minus.of(of["recall@10"]),
            f"{group['sessions'][0]} to {group['sessions'][1]} sessions, R@10",
        )
        for group in groups
        for rival, of in group["minus"].items()
    ] + [
        claim(
            f"Round robin is above {named(rival)} for new households",
            Minus.of(of["recall@10"]),
            f"known by {row['sessions']} session{'s' * (row['sessions'] > 1)}, R@10",
        )
        for row in new
        for rival, of in row["minus"].items()
    ]
    lines = {
        named(name): [
            Point(row["sessions"], row["table"][name]["recall@10"],
                  *row["table"][name]["recall@10_ci"])
            for row in new
        ]
        for name in new[0]["table"]
    }  # fmt: skip
    shown = ("recall@10", "ndcg@10", "hit@5")
    rows = [
        [
            Cell(label),
            Cell(named(name)),
            *(with_interval(of, measure) for measure in shown),
        ]
        for label, of_methods in (
            *((f"{g['households']}, {g['requests']}", g["table"]) for g in groups),
            *((f"new, {row['sessions']} known", row["table"]) for row in new),
        )
        for name, of in of_methods.items()
    ]
    return Section(
        "Households",
        "Thirds by sessions before the cut. New: everyone asked without a name, by the events of "
        "the last sessions alone.",
        claims,
        [curves("R@10 of new households", lines, "sessions known", "R@10")],
        [Table("", ("households", "method", *(MEASURES[m] for m in shown)), rows, names=2)],
    )


def cold(shop: Row) -> Section:
    """Items that the model never saw."""
    found = shop["cold"]
    rows = [
        [Cell(named(name)), Cell(f"{of['mean']:.4f} [{of['ci'][0]:.4f}, {of['ci'][1]:.4f}]")]
        for name, of in found["recall@10"].items()
    ]
    if rows:
        rows.append([Cell("ten drawn at random"), Cell(f"{found['chance']:.4f}")])
    claims = []
    if "full_minus_three_times" in found:
        text = "Text and tags triple the recall of items that training never saw"
        times = "" if found["ratio"] is None else f", {found['ratio']:.1f} times"
        claims.append(
            claim(text, Minus.of(found["full_minus_three_times"]), f"full − 3 · without{times}")
        )
    return Section(
        "Cold items",
        f"A model that ends 28 days before the final cut, asked for ten of the {found['items']:,} "
        f"items that appeared since: {found['bought']:,} first purchases of {found['requests']:,} "
        "households. Δ of such an item is 0: its text and tags alone tell.",
        claims,
        tables=[Table("", ("model", "R@10"), rows)] if rows else [],
    )


def prior(shop: Row) -> Section:
    """The popularity prior as a lever."""
    found = shop["prior"]
    charts = [
        curves(
            f"{title} by λ_serve",
            {
                f"λ_train {value}": [
                    Point(row["lambda_serve"], *[row[measure]] * 3) for row in rows
                ]
                for value, rows in found.items()
            },
            "λ_serve",
            title,
        )
        for measure, title in (
            ("recall@10", "R@10"),
            ("coverage@10", "Coverage@10"),
            ("gini", "Gini"),
        )
    ]
    shown = ("recall@10", "ndcg@10", "coverage@10", "gini", "popularity_rank")
    rows = [
        [Cell(value), Cell(f"{row['lambda_serve']:g}"),
         *(Cell(f"{row[m]:.4f}" if m != "popularity_rank" else f"{row[m]:,.0f}") for m in shown)]
        for value, of in found.items()
        for row in of
    ]  # fmt: skip
    heads = ("λ_train", "λ_serve", "R@10", "NDCG@10", "Cov@10", "Gini", "mean popularity rank")
    return Section(
        "Popularity prior",
        "What b = −λ log p costs in accuracy and gives in coverage, trained or only served.",
        charts=charts,
        tables=[Table("", heads, rows)],
    )


def drift(shop: Row) -> Section:
    """Vectors over the weeks."""
    title = "Drift"
    asked = "Cosine of a household's vectors to those at the end of training, as its history grows."
    if "drift" not in shop:
        return Section(title, asked, missing="drift")
    found = shop["drift"]
    lines = {
        named(name): [
            Point(row["week"], row[name], row[name] - 2 * row[f"{name}_se"],
                  row[name] + 2 * row[f"{name}_se"])
            for row in found
        ]
        for name in ("next", "general")
    }  # fmt: skip
    last = found[-1]
    claims = [
        Claim(
            "h_gen, the long-term interest, moves less than h_next",
            f"week {last['week']}: {last['general']:.3f} against {last['next']:.3f}",
            "holds" if last["general"] > last["next"] else "does not hold",
        )
    ]
    return Section(
        title,
        asked,
        claims,
        [curves("Similarity to the day of training", lines, "weeks since training", "cosine")],
    )


def amazon(found: Row) -> Section:
    """Leave-one-out on Amazon reviews."""
    claims, tables = [], []
    shown = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")
    bars = []
    for protocol, methods in found.items():
        targets = zip(("recall@10", "ndcg@10"), _BARS[protocol], strict=True)
        for measure, target in targets if "stars" in methods else ():
            text = f"{protocol}: {MEASURES[measure]} of {target:.3f}"
            claims.append(reached(text, methods["stars"][measure], target))
        rows = [
            [
                Cell(named(name)),
                *(Cell(f"{of[measure]:.4f}") for measure in shown),
                Cell(f"{of['standard_error']['recall@10']:.4f}" if "standard_error" in of else ""),
                Cell(f"{of['minutes']:.1f}" if "minutes" in of else ""),
            ]
            for name, of in methods.items()
        ]
        heads = ("method", "R@5", "N@5", "R@10", "N@10", "± R@10", "minutes")
        tables.append(Table(protocol, heads, rows))
        if protocol == "strict":
            for name, of in methods.items():
                error = 2 * of.get("standard_error", {}).get("recall@10", 0.0)
                at = of["recall@10"]
                bars.append(Bar(named(name), at, at - error, at + error))
    return Section(
        "Amazon Beauty",
        "Leave-one-out, all items ranked but those of the history. strict never trains on the "
        "validation item, refit does. STARS adds a count of what users took near the items of the "
        "history; the model alone stands beside it.",
        claims,
        [differences("R@10, strict", bars, "R@10", zero=False)],
        tables,
    )
