"""`stars kernels`: compile the shipped kernels without a GPU, count bytes, hold the bounds."""

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from . import OPS
from .cards import CARDS
from .report import Row, as_json, report

app = typer.Typer(
    name="stars kernels", help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False
)
Ops = Annotated[list[str] | None, typer.Option("--op", help=f"One of {', '.join(OPS)}; repeat.")]
Sms = Annotated[list[int] | None, typer.Option("--sm", help=f"One of {list(CARDS)}; repeat.")]


@app.command("compile")
def compile_(op: Ops = None, sm: Sms = None) -> None:
    """Compiles every shipped configuration; exits 1 where one spills or breaks another rule."""
    rows = report(op or OPS, sm or CARDS, trace=False)
    table = Table("op", "configuration", "kernel", "sm", title="compiled, not run")
    for name in ("warps", "registers", "spills", "shared KiB", "occupancy", "16-byte", "mma"):
        table.add_column(name, justify="right")
    for row in rows:
        for k in row.kernels:
            table.add_row(
                row.op, row.config, k.name, str(row.sm), str(k.num_warps), str(k.registers),
                str(k.spill_bytes), f"{k.shared_bytes / 1024:.1f}", f"{k.occupancy:.2f}",
                f"{k.vector_load_share:.2f}", str(k.mma_count),
            )  # fmt: skip
    _finish(table, rows)


@app.command("report")
def report_(
    op: Ops = None,
    sm: Sms = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also writes all of it to this file.")
    ] = None,
) -> None:
    """Bytes, resources and roofline of every shipped configuration; exits 1 past a bound."""
    rows = report(op or OPS, sm or CARDS)
    if json_file is not None:
        versions = {name: version(name) for name in ("torch", "triton")}
        document = {
            "command": shlex.join(["stars", "kernels", *sys.argv[1:]]),
            "commit": _commit(),
            "versions": {"python": platform.python_version(), **versions},
            "modelled": "modelled_us is a roofline from bytes, flops and data sheets: not measured",
            "rows": as_json(rows),
        }
        json_file.write_text(json.dumps(document, indent=1), encoding="utf-8")
    table = Table("op", "configuration", "sm", title="traced and compiled; times modelled, not run")
    for name in (
        "bytes / ideal", "MB", "from cache", "unfused / bytes", "registers", "spills",
        "shared KiB", "occupancy", "16-byte", "mma", "modelled µs",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for row in rows:
        ratio = "" if row.bytes_ratio is None else f"{row.bytes_ratio:.3f} ≤ {row.bytes_bound}"
        unfused = "" if row.unfused_ratio is None else f"{row.unfused_ratio:.1f}"
        if row.peak_ratio is not None:
            unfused += f" (peak {row.peak_ratio:.0f})"
        table.add_row(
            row.op, row.config, str(row.sm), ratio, _megabytes(row.moved_bytes),
            _megabytes(row.cached_bytes), unfused, str(row.registers), str(row.spill_bytes),
            f"{row.shared_bytes / 1024:.1f}", f"{row.occupancy:.2f}",
            f"{row.vector_load_share:.2f}", str(row.mma_count),
            "" if row.modelled_us is None else f"{row.modelled_us:.1f}",
        )  # fmt: skip
    _finish(table, rows, [f"unfused: {config}: {steps}" for config, steps in _unfused(rows)])


def _commit() -> str | None:
    """The checkout's commit; None where the package is installed without one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _megabytes(n_bytes: int | None) -> str:
    return "" if n_bytes is None else f"{n_bytes / 1e6:.1f}"


def _unfused(rows: list[Row]) -> list[tuple[str, str]]:
    """The plain torch sequence of each case that has one, with the bytes of its operations."""
    cases = {f"{row.op} {row.config}": row.unfused for row in rows if row.unfused}
    return [
        (config, "; ".join(f"{step.op}, {step.bytes / 1e6:.1f} MB" for step in steps))
        for config, steps in cases.items()
    ]


def _finish(table: Table, rows: list[Row], notes: Iterable[str] = ()) -> None:
    """Prints the table, notes, why some grids are smaller than a card, and every breach."""
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    for config, why in {f"{r.op} {r.config}": r.why_few_blocks for r in rows}.items():
        if why:
            console.print(f"few blocks: {config}: {why}", highlight=False, soft_wrap=True)
    breaches = [breach for row in rows for breach in row.breaches]
    for breach in breaches:
        console.print(f"[red]✗[/red] {breach}", highlight=False)
    if breaches:
        raise typer.Exit(1)
    console.print(f"{len(rows)} rows within their bounds")


if __name__ == "__main__":
    app(prog_name="stars kernels")
