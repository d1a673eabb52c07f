"""Tables of what was tried: the leave-one-out runs on Amazon reviews, and the next session."""

from pathlib import Path
from typing import Any

from .markdown import markdown_table

ROOT = Path(__file__).resolve().parents[1]
NOTES = ROOT / "engine" / "evaluation" / "EXPERIMENTS.md"
RUNS = ROOT / "benchmarks" / "results" / "amazon.jsonl"
JOURNEY = ROOT / "benchmarks" / "results" / "journey_experiments.jsonl"
REPEATS = ROOT / "benchmarks" / "results" / "repeat_experiments.jsonl"
LAMBDAS = ROOT / "benchmarks" / "results" / "lambda_experiments.jsonl"
REFITS = ROOT / "benchmarks" / "results" / "refit_experiments.jsonl"
DISCOVERY = ROOT / "benchmarks" / "results" / "discovery_experiments.jsonl"
TRIED = ROOT / "benchmarks" / "results" / "amazon_experiments.jsonl"


def runs_table(rows: list[dict[str, Any]]) -> str:
    """What the shipped configuration reached, with the term of counts and without."""
    heads = (
        "run", "validation", "test", "± test recall@10", "model alone, validation",
        "model alone, test", "γ", "minutes", "CPU minutes",
    )  # fmt: skip
    return markdown_table(heads, [_run(run) for run in rows])


def _run(run: dict[str, Any]) -> list[str]:
    without = f", without {' and '.join(run['without'])}" if run["without"] else ""
    return [
        f"{run['dataset']}, {run['protocol']}{without}, seed {run['seed']}",
        _figures(run["validation"]),
        _figures(run["test"]),
        f"{run['standard_error']['test']['recall@10']:.4f}",
        _figures(run["model_alone"].get("validation")),
        _figures(run["model_alone"]["test"]),
        *(f"{run[name]:g}" for name in ("gamma", "minutes", "cpu_minutes")),
    ]


def tried_table(rows: list[dict[str, Any]]) -> str:
    """What was tried on the way."""
    return markdown_table(
        ("run", "epochs", "validation", "test"),
        [
            (
                run["name"],
                f"{run['epochs']:g} of {run['epochs_planned']:g}",
                _figures(run["validation"]),
                _figures(run["test"]),
            )
            for run in rows
        ],
    )


def journey_table(rows: list[dict[str, Any]]) -> str:
    """What was tried on Complete Journey, at the validation cut."""
    return markdown_table(
        ("run", "next", "items never bought before", "CPU minutes"),
        [
            (run["name"], _figures(run["next"]), _figures(run["new"]), f"{run['cpu_minutes']:g}")
            for run in rows
        ],
    )


def repeats_table(rows: list[dict[str, Any]]) -> str:
    """What the repeat network alone reached, by cuts before the final one."""
    cuts = list(rows[0]["cuts"])
    return markdown_table(
        ("repeat network", *(f"cut −{cut}" for cut in cuts)),
        [(run["name"], *(_figures(run["cuts"].get(cut)) for cut in cuts)) for run in rows],
    )


def lambdas_table(rows: list[dict[str, Any]]) -> str:
    """What λ_serve costs and shows on the validation window of each cut."""
    values = sorted({entry["lambda"] for run in rows for entry in run["validation"]})
    table = []
    for run in rows:
        by = {entry["lambda"]: entry for entry in run["validation"]}
        cells = (
            f"{by[value]['ndcg@10']:.4f} / {by[value]['coverage@10']:.3f}" if value in by else "–"
            for value in values
        )
        table.append((f"cut −{run['cut']}" if run["cut"] else "the final cut", *cells))
    return markdown_table(("validation window of", *(f"λ {value:g}" for value in values)), table)


def refits_table(rows: list[dict[str, Any]]) -> str:
    """Weights refitted on the last 28 days, beside those that never saw them."""
    return markdown_table(
        ("next session after", "without", "refitted"),
        [
            (
                f"cut −{run['cut']}, {run['name']}",
                _figures(run["without"]),
                _figures(run["refitted"]),
            )
            for run in rows
        ],
    )


def discovery_table(rows: list[dict[str, Any]]) -> str:
    """What weights on sales, promotions and subclasses do to either kind of list."""
    return markdown_table(
        ("order", "list", "recall@10 / NDCG@10"),
        [(run["name"], run["list"], _figures(run)) for run in rows],
    )


def _figures(means: dict[str, float] | None) -> str:
    return "–" if means is None else f"{means['recall@10']:.4f} / {means['ndcg@10']:.4f}"
