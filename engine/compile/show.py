"""A compile.json as terminal tables."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table


def tables(report: dict[str, Any]) -> Iterator[Table]:
    """One for each part of the report that holds something."""
    if report["artifacts"]:
        yield _artifacts(report)
    if report["parity"]:
        yield _parity(report)
    if report["encoder_ms"]:
        yield _times(report)
    if report["bridge"]:
        yield _bridge(report)


def files(report: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Name, target, cards, MB and seconds of each file: one that serves several cards has a row."""
    cards: dict[str, list[str]] = {}
    for row in report["artifacts"]:
        cards.setdefault(row["file"], []).extend([] if row["sm"] is None else [str(row["sm"])])
    first = {row["file"]: row for row in reversed(report["artifacts"])}
    return [
        (
            file, first[file]["target"], " ".join(names),
            f"{first[file]['bytes'] / 1e6:.1f}", f"{first[file]['seconds']:.1f}",
        )
        for file, names in cards.items()
    ]  # fmt: skip


def _artifacts(report: dict[str, Any]) -> Table:
    title = f"Made in {report['build_seconds']:.0f} s"
    table = Table("file", "target", "cards", "MB", "seconds", title=title)
    _right(table, "MB", "seconds")
    for row in files(report):
        table.add_row(*row)
    return table


def _parity(report: dict[str, Any]) -> Table:
    title = f"Beside torch in fp32, {report['weights']} weights"
    columns = ("runtime", "precision", "cosine, at least", "same of the top 10", "NDCG@10")
    table = Table(*columns, title=title)
    _right(table, *columns[2:])
    for row in report["parity"]:
        trained = row["top10_overlap"] is not None
        table.add_row(
            row["runtime"],
            row["precision"],
            f"{row['cosine_min']:.6f}",
            f"{row['top10_overlap']:.2%}" if trained else "",
            f"{row['ndcg_delta']:+.2%}" if trained else "",
        )
    return table


def _times(report: dict[str, Any]) -> Table:
    window, threads = report["model"]["window"], report["threads"]
    title = f"One user, {window} events, {threads} threads; the best of each that passes parity"
    table = Table("", "precision", "p50 ms", "p95 ms", "cpu / this", title=title)
    _right(table, "p50 ms", "p95 ms", "cpu / this")
    ours = report["encoder_ms"]["cpu"]["p50"]
    for family, row in report["encoder_ms"].items():
        share = f"{ours / row['p50']:.2f}"
        name = family.replace("_", " ")
        table.add_row(name, row["precision"], f"{row['p50']:.2f}", f"{row['p95']:.2f}", share)
    if report["append_ms"]:
        table.add_section()
    for key, name in (("append_ms", "cpu, one event"), ("append_alone_ms", "the two alone")):
        one = report[key]
        if one:
            share = f"{one['p50'] / one['full_p50']:.2f} of a window"
            precision = report["encoder_ms"]["cpu"]["precision"]
            table.add_row(name, precision, f"{one['p50']:.2f}", "", share)
    return table


def _bridge(report: dict[str, Any]) -> Table:
    cards = sorted({row["sm"] for row in report["bridge"]})
    title = "Kernels as TensorRT plugins: PTX version by card"
    table = Table("kernel", *(f"sm_{sm}" for sm in cards), "rules kept", title=title)
    _right(table, "rules kept")
    kernels: dict[str, dict[int, dict[str, Any]]] = {}
    for row in report["bridge"]:
        kernels.setdefault(row["kernel"], {})[row["sm"]] = row
    for kernel, rows in kernels.items():
        cells = []
        for sm in cards:
            row = rows.get(sm)
            version = "" if row is None else f"{row['ptx_version'] / 10:.1f}"
            cells.append(version if row is None or row["assembled"] else "refused")
        rules = {len(row["rules"]) for row in rows.values()}
        table.add_row(kernel, *cells, " ".join(map(str, sorted(rules))))
    return table


def _right(table: Table, *names: str) -> None:
    for column in table.columns:
        if column.header in names:
            column.justify = "right"
