"""Evaluation results as terminal tables."""

from collections.abc import Mapping

from rich.table import Table

from .metrics import ACCURACY

_COLUMNS = (*ACCURACY, "coverage@10")


def metrics_table(metrics: Mapping[str, Mapping[str, float]]) -> Table:
    """One row a method, one column a measure."""
    table = Table("method", *_COLUMNS, title="First session after the cut, whole catalogue")
    for method, values in metrics.items():
        if method == "popularity":
            table.add_section()
        table.add_row(method.replace("_", " "), *(f"{values[name]:.4f}" for name in _COLUMNS))
    return table


def comparison_table(comparison: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Table:
    """Paired differences with their 95 % intervals."""
    table = Table("difference", "measure", "mean", "95 % interval", title="Paired by user")
    for name, measures in comparison.items():
        for measure, value in measures.items():
            interval = f"{value['low']:+.4f} … {value['high']:+.4f}"
            table.add_row(name.replace("_", " "), measure, f"{value['mean']:+.4f}", interval)
            name = ""  # said once
    return table
