"""Sections of accuracy: the main table, the cuts, discovery, the ablation."""

from collections.abc import Mapping

from engine.evaluation.metrics import ACCURACY
from engine.reporting.charts import Bar, Point, curves, differences
from engine.reporting.tables import Cell, Claim, Minus, Row, Section, Table, claim, difference

NAMES = {
    "next": "STARS next (NI)",
    "general": "STARS general (GI)",
    "round_robin": "STARS round robin",
    "lambdamart": "LambdaMART",
    "personal_recency": "personal frequency, decayed",
    "sasrec": "SASRec",
    "bert4rec": "BERT4Rec",
    "upcf": "UP-CF",
    "no_text_no_tags": "no text, no tags",
    "stars": "STARS",
    "stars_no_text": "STARS without text, tags",
    "stars_model_alone": "STARS, the model alone",
    "stars_no_text_model_alone": "STARS without text, tags, the model alone",
}
MEASURES = {
    "hit@5": "Hit@5", "hit@10": "Hit@10", "recall@10": "R@10", "ndcg@10": "NDCG@10",
    "coverage@10": "Cov@10",
}  # fmt: skip
OURS = ("next", "round_robin")
R_FINAL, NDCG_FINAL = 0.150, 0.218


def named(name: str) -> str:
    """A method's or a variant's name in words."""
    return NAMES.get(name, name.replace("_", " "))


def with_interval(values: Row, measure: str) -> Cell:
    """A mean and its interval, in four digits."""
    low, high = values[f"{measure}_ci"]
    return Cell(f"{values[measure]:.4f} [{low:.4f}, {high:.4f}]")


def methods_table(title: str, rows: Mapping[str, Row]) -> Table:
    """One row a method."""
    return Table(
        title,
        ("method", *MEASURES.values()),
        [
            [
                Cell(named(name)),
                *(with_interval(of, measure) for measure in ACCURACY),
                Cell(f"{of['coverage@10']:.4f}"),
            ]
            for name, of in rows.items()
        ],
    )


def differences_table(title: str, of: Mapping[str, Mapping[str, Row]]) -> Table:
    """One row a pair."""
    measures = ("recall@10", "ndcg@10", "hit@5")
    return Table(
        title,
        ("ours", "minus", *(MEASURES[measure] for measure in measures)),
        [
            [
                Cell(named(ours)),
                Cell(named(rival)),
                *(difference(Minus.of(values[measure])) for measure in measures),
            ]
            for ours, rivals in of.items()
            for rival, values in rivals.items()
        ],
        names=2,
    )


def main_table(shop: Row) -> Section:
    """Every method at the final cut, and the targets."""
    covered = {name: shop["table"][name]["coverage@10"] for name in shop["table"]}
    lists = max(covered["next"], covered["general"])
    claims = [
        _headline(shop["seeds"], "recall@10", R_FINAL),
        _headline(shop["seeds"], "ndcg@10", NDCG_FINAL),
        above("Round robin covers more than either list", covered["round_robin"], lists),
    ]
    if "lambdamart" in covered:
        text = "Round robin covers more than LambdaMART"
        claims.append(above(text, covered["round_robin"], covered["lambdamart"]))
    seeds = Table(
        "Three seeds" if len(shop["seeds"]["next"]["runs"]) == 3 else "Seeds",
        ("method", *(MEASURES[measure] for measure in ACCURACY)),
        [
            [
                Cell(named(name)),
                *(
                    Cell(f"{of['mean'][m]:.4f}" + (f" ± {of['std'][m]:.4f}" if of["std"] else ""))
                    for m in ACCURACY
                ),
            ]
            for name, of in shop["seeds"].items()
        ],
    )
    bars = [
        Bar(named(name), of["recall@10"], *of["recall@10_ci"]) for name, of in shop["table"].items()
    ]
    chart = differences("R@10 at the final cut", bars, "R@10", zero=False)
    return Section(
        "Final cut",
        f"What do {shop['requests']:,} households buy first in the last 28 days? "
        f"Served with λ {shop['lambda_serve']:g}, chosen on the 28 days before.",
        claims,
        [chart],
        [methods_table("", shop["table"]), seeds],
    )


def _headline(seeds: Row, measure: str, target: float) -> Claim:
    """The better of our lists, in the mean over the seeds."""
    best = max(OURS, key=lambda name: float(seeds[name]["mean"][measure]))
    value, n = seeds[best]["mean"][measure], len(seeds[best]["runs"])
    found = reached(f"{MEASURES[measure]} of {target:.3f} at the final cut", value, target)
    return Claim(
        found.text, f"{found.found}: {named(best)}, {n} seed{'s' * (n > 1)}", found.verdict
    )


def rolling(shop: Row) -> Section:
    """All cuts together."""
    pooled = shop["differences"]["all_cuts"]
    claims = [
        claim(
            f"{named(ours)} is above {named(rival)}",
            Minus.of(pooled[ours][rival][measure]),
            f"{len(shop['cuts'])} cuts, {MEASURES[measure]}",
        )
        for ours in OURS
        for rival in ("personal_recency", "lambdamart")
        if rival in pooled[ours]
        for measure in ("recall@10", "ndcg@10", "hit@5")
    ]
    shown = ("next", "personal_recency", "lambdamart")
    lines = {
        named(name): [
            Point(-place, *[cut["table"][name]["recall@10"]] * 3)
            for place, cut in reversed(list(enumerate(shop["cuts"])))
        ]
        for name in shown
        if name in shop["cuts"][0]["table"]
    }
    return Section(
        "Rolling cuts",
        "Seasons move, and one cut proves little: each cut is 28 days before the next one, every "
        "method trained on what came before it.",
        claims,
        [curves("R@10, cut by cut", lines, "cut (0 is the final one)", "R@10")],
        [
            differences_table(title, shop["differences"][which])
            for title, which in (
                ("All cuts together", "all_cuts"),
                ("Without the final cut", "earlier_cuts"),
            )
            if which in shop["differences"]
        ],
    )


def discovery(shop: Row) -> Section:
    """Items never bought before."""
    found = shop["discovery"]
    claims = [
        claim(
            f"{named(ours)}: R@10 at least twice popularity's",
            Minus.of(of["all_cuts"]),
            "all cuts, ours − 2 · popularity",
        )
        for ours, of in found["twice_popularity"].items()
    ]
    for rival in ("lambdamart", "sasrec"):
        for ours in OURS:
            where, of = "all cuts", found["minus_all_cuts"][ours].get(rival)
            if of is None:
                where, of = "final cut", found["minus"][ours].get(rival)
            if of is not None:
                text = f"{named(ours)} is above {named(rival)} at finding new items"
                claims.append(claim(text, Minus.of(of["recall@10"]), f"{where}, R@10"))
    return Section(
        "Discovery",
        f"What a household never bought before, its history left out of the lists "
        f"({found['requests']:,} requests at the final cut).",
        claims,
        [],
        [
            methods_table("Final cut", found["table"]),
            differences_table("Differences, final cut", found["minus"]),
            differences_table("Differences, all cuts", found["minus_all_cuts"]),
        ],
    )


_PAPER = (
    "no_text", "no_tags", "no_context", "no_user", "no_repeats", "prior_trained_and_served",
    "prior_served", "no_subclass_negatives", "no_delta", "cls_pooling",
)  # fmt: skip


def ablation(shop: Row) -> Section:
    """Each part left out."""
    found = shop["ablation"]
    shown = [name for name in _PAPER if name in found]
    claims = [
        _worse(name, Minus.of(found[name]["next"]["minus_full"]["recall@10"])) for name in shown
    ]
    bars = [
        Bar(named(name), *Minus.of(found[name]["next"]["minus_full"]["recall@10"]))
        for name in found
        if name != "full"
    ]
    rows = [
        [
            Cell(named(variant)),
            Cell(named(strategy)),
            *(Cell(f"{of[measure]:.4f}") for measure in MEASURES),
            difference(Minus.of(of["minus_full"]["recall@10"])),
            difference(Minus.of(of["minus_full"]["ndcg@10"])),
        ]
        for variant, strategies in found.items()
        for strategy, of in strategies.items()
    ]
    heads = ("variant", "list", *MEASURES.values(), "R@10 − full", "NDCG@10 − full")
    return Section(
        "Ablation",
        "The model with one part left out, trained and served alike otherwise; one seed.",
        claims,
        [differences("R@10 of NI, minus the full model's", bars, "difference")],
        [Table("", heads, rows, names=2)],
    )


def _worse(name: str, minus: Minus) -> Claim:
    """The paper's direction: without the part it is worse."""
    verdict = "holds" if minus.high < 0 else "does not hold" if minus.low > 0 else "not clear"
    return Claim(f"{named(name)}: worse than the full model", f"final cut, R@10: {minus}", verdict)


def reached(text: str, value: float, target: float) -> Claim:
    """A target of a mean."""
    verdict = "holds" if value >= target else "does not hold"
    return Claim(text, f"{value:.4f}", verdict)


def above(text: str, ours: float, theirs: float) -> Claim:
    """One number above another; no interval."""
    verdict = "holds" if ours > theirs else "does not hold"
    return Claim(text, f"{ours:.4f} against {theirs:.4f}", verdict)


def percent(value: float) -> str:
    """+12 %."""
    return f"{100 * value:+.0f} %"
