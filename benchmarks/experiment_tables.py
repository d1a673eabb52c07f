"""Tables of what was tried: the leave-one-out runs on Amazon reviews, and the next session."""

from pathlib import Path
from typing import Any

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
    lines = [
        "| run | validation | test | ± test recall@10 | model alone, validation "
        "| model alone, test | γ | minutes | CPU minutes |",
        "|" + "---|" * 9,
    ]
    for run in rows:
        without = f", without {' and '.join(run['without'])}" if run["without"] else ""
        error = run["standard_error"]["test"]["recall@10"]
        lines.append(
            f"| {run['dataset']}, {run['protocol']}{without}, seed {run['seed']} "
            f"| {_figures(run['validation'])} | {_figures(run['test'])} | {error:.4f} "
            f"| {_figures(run['model_alone'].get('validation'))} "
            f"| {_figures(run['model_alone']['test'])} "
            f"| {run['gamma']:g} | {run['minutes']:g} | {run['cpu_minutes']:g} |"
        )
    return "\n".join(lines)


def tried_table(rows: list[dict[str, Any]]) -> str:
    """What was tried on the way."""
    lines = ["| run | epochs | validation | test |", "|" + "---|" * 4]
    lines += [
        f"| {run['name']} | {run['epochs']:g} of {run['epochs_planned']:g} "
        f"| {_figures(run['validation'])} | {_figures(run['test'])} |"
        for run in rows
    ]
    return "\n".join(lines)


def journey_table(rows: list[dict[str, Any]]) -> str:
    """What was tried on Complete Journey, at the validation cut."""
    lines = ["| run | next | items never bought before | CPU minutes |", "|" + "---|" * 4]
    lines += [
        f"| {run['name']} | {_figures(run['next'])} | {_figures(run['new'])} "
        f"| {run['cpu_minutes']:g} |"
        for run in rows
    ]
    return "\n".join(lines)


def repeats_table(rows: list[dict[str, Any]]) -> str:
    """What the repeat network alone reached, by cuts before the final one."""
    cuts = list(rows[0]["cuts"])
    lines = [f"| repeat network | {' | '.join(f'cut −{cut}' for cut in cuts)} |"]
    lines.append("|" + "---|" * (len(cuts) + 1))
    lines += [
        f"| {run['name']} | {' | '.join(_figures(run['cuts'][cut]) for cut in cuts)} |"
        for run in rows
    ]
    return "\n".join(lines)


def lambdas_table(rows: list[dict[str, Any]]) -> str:
    """What λ_serve costs and shows on the validation window of each cut."""
    values = sorted({entry["lambda"] for run in rows for entry in run["validation"]})
    lines = [f"| validation window of | {' | '.join(f'λ {value:g}' for value in values)} |"]
    lines.append("|" + "---|" * (len(values) + 1))
    for run in rows:
        by = {entry["lambda"]: entry for entry in run["validation"]}
        cells = (
            f"{by[value]['ndcg@10']:.4f} / {by[value]['coverage@10']:.3f}" if value in by else "–"
            for value in values
        )
        cut = f"cut −{run['cut']}" if run["cut"] else "the final cut"
        lines.append(f"| {cut} | {' | '.join(cells)} |")
    return "\n".join(lines)


def refits_table(rows: list[dict[str, Any]]) -> str:
    """Weights refitted on the last 28 days, beside those that never saw them."""
    lines = ["| next session after | without | refitted |", "|---|---|---|"]
    lines += [
        f"| cut −{run['cut']}, {run['name']} | {_figures(run['without'])} "
        f"| {_figures(run['refitted'])} |"
        for run in rows
    ]
    return "\n".join(lines)


def discovery_table(rows: list[dict[str, Any]]) -> str:
    """What was found of items that a household never bought."""
    lines = ["| order | items never bought before |", "|---|---|"]
    lines += [f"| {run['name']} | {_figures(run)} |" for run in rows]
    return "\n".join(lines)


def _figures(means: dict[str, float] | None) -> str:
    return "–" if means is None else f"{means['recall@10']:.4f} / {means['ndcg@10']:.4f}"
