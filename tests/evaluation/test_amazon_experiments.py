"""engine/evaluation/EXPERIMENTS.md holds the figures of the stored results, and no others."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
NOTES = ROOT / "engine" / "evaluation" / "EXPERIMENTS.md"


def stored(name: str) -> list[dict[str, Any]]:
    lines = (RESULTS / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def figures(means: dict[str, float] | None) -> str:
    return "–" if means is None else f"{means['recall@10']:.4f} / {means['ndcg@10']:.4f}"


def rows() -> list[str]:
    """The table rows that the stored lines make."""
    made = []
    for run in stored("amazon.jsonl"):
        without = f", without {' and '.join(run['without'])}" if run["without"] else ""
        error = run["standard_error"]["test"]["recall@10"]
        made.append(
            f"| {run['dataset']}, {run['protocol']}{without}, seed {run['seed']} "
            f"| {figures(run['validation'])} | {figures(run['test'])} | {error:.4f} "
            f"| {figures(run['model_alone'].get('validation'))} "
            f"| {figures(run['model_alone']['test'])} "
            f"| {run['gamma']:g} | {run['minutes']:g} | {run['cpu_minutes']:g} |"
        )
    made += [
        f"| {run['name']} | {run['epochs']:g} of {run['epochs_planned']:g} "
        f"| {figures(run['validation'])} | {figures(run['test'])} |"
        for run in stored("amazon_experiments.jsonl")
    ]
    return made


def test_the_notes_are_those_of_the_stored_results() -> None:
    found = [
        line
        for line in NOTES.read_text(encoding="utf-8").splitlines()
        if line.startswith("| ") and any(digit in line for digit in "0123456789") and ".0" in line
    ]
    assert found == rows()
