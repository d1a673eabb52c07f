"""What a ranker is worth, as a table."""

from pathlib import Path

from rich.table import Table

from engine.bundle import RANKER_FOLDER

from .sidecar import read_sidecar


def metrics_table(folder: Path) -> Table:
    """A row an objective, of the ranker that `rank_run` wrote to `folder`."""
    metrics = read_sidecar(folder / RANKER_FOLDER).metrics
    requests = metrics["requests"]["asked"]
    table = Table(
        "objective", "rate", "AUC", "GAUC, retrieved", "own", "fused",
        title=f"the ranker on {requests} requests that it did not learn from",
    )  # fmt: skip
    for name, found in metrics["objectives"].items():
        gauc = (f"{found['gauc'][order]:.4f}" for order in ("retrieved", "own", "fused"))
        table.add_row(name, f"{found['rate']:.4f}", f"{found['auc']['own']:.4f}", *gauc)
    return table
