"""`stars bench report`: one page, without a network, of what is stored in benchmarks/results.

python -m benchmarks.report [--out artifacts/report.html]
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jinja2
import typer

from engine.errors import ConfigError
from kernels.cards import CARDS, MODELLED

from . import report_charts as charts
from .case import ENGINE

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RELEASES = ROOT / "benchmarks" / "results", ROOT / "benchmarks" / "releases"
PAGE = Path(__file__).with_name("report_page.html")
OUT = ROOT / "artifacts" / "report.html"
SUITE = "pytest benchmarks --benchmark-only --store"
PROFILE = "stars profile --json benchmarks/results/profile.json"
KERNELS = "stars kernels report --json benchmarks/results/kernels.json"
RELEASE = "stars gate --store"
SIZES = {
    "growth_items": ("Catalogue size", "items"),
    "growth_length": ("Sequence length", "events"),
    "growth_batch": ("Batch", "requests at once"),
    "growth_concurrency": ("Concurrency", "clients"),
}
NULL = "null"  # no opponent: what the server itself costs
DRAWN = ("request", "grpc", "encode", "append", "search", "peer")  # parts of names
Row = dict[str, Any]
Ways = dict[str, Row]  # way -> its stored row


@dataclass(frozen=True)
class Line:
    """Cells of a table's row; the engine's rows stand out."""

    cells: Sequence[str]
    ours: bool = False


@dataclass(frozen=True)
class Table:
    """`names` columns from the left hold words."""

    heads: Sequence[str]
    rows: Sequence[Line]
    names: int = 1


@dataclass(frozen=True)
class Section:
    """A part of the page; `missing` is the command that stores what it lacks."""

    title: str
    note: str
    charts: Sequence[str] = ()
    table: Table | None = None
    missing: str = ""
    anchor: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "anchor", self.title.lower().replace(" ", "-"))


def read_lines(path: Path) -> list[Row]:
    """Stored JSON lines; none where there is no file.

    Raises:
        ConfigError: a line that is no JSON object; names file and line.
    """
    found = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else (), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: expected a JSON line, got {error}") from error
        if not isinstance(row, dict):
            raise ConfigError(f"{path}:{number}: expected a JSON object, got {line[:80]!r}")
        found.append(row)
    return found


def by_case(rows: Sequence[Row]) -> dict[str, Ways]:
    """Rows of the suite, case by case, the engine's way first."""
    cases: dict[str, Ways] = {}
    for row in sorted(rows, key=lambda row: (row["case"], row["way"] != ENGINE)):
        cases.setdefault(row["case"], {})[row["way"]] = row
    return cases


def latency(cases: Mapping[str, Ways]) -> Section:
    """Distributions of every timed case of requests and encoders."""
    drawn = []
    for name, ways in cases.items():
        quantiles = {way: row["quantiles_ms"] for way, row in ways.items()}
        if all(quantiles.values()) and any(part in name for part in DRAWN):
            drawn.append(charts.distributions(name.replace("_", " "), quantiles))
    note = "Share of calls answered within a time; all ways of a chart in the same rounds."
    return Section("Latency", note, drawn, missing="" if drawn else SUITE)


def load(rows: Sequence[Row]) -> Section:
    """Throughput against the 99th percentile, of every protocol and scenario."""
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row["load"] == "concurrency":
            models = groups.setdefault((row["protocol"], row["scenario"]), {})
            models.setdefault(row["model"], []).append(row)
    drawn = []
    for (protocol, scenario), models in groups.items():
        points = {}
        for model, found in models.items():
            found = sorted(found, key=lambda row: float(row["value"]))
            points[model] = (
                [row["throughput_per_s"] for row in found], [row["p99_ms"] for row in found]
            )  # fmt: skip
        title = f"{scenario} over {protocol}"
        drawn.append(charts.lines(title, points, "requests a second", "p99, ms", log="y"))
    note = (
        "Clients from 1 to 16, by perf_analyzer; the null model takes and returns the same tensors."
    )
    return Section("Throughput against latency", note, drawn, missing="" if drawn else PROFILE)


def growth(cases: Mapping[str, Ways]) -> Section:
    """Costs against sizes."""
    drawn = [
        charts.growth(title, {way: row["statistics"] for way, row in cases[name].items()}, x)
        for name, (title, x) in SIZES.items()
        if name in cases
    ]
    note = (
        "Time of one call against what grows; both scales logarithmic, so a slope is an exponent."
    )
    return Section("Growth", note, drawn, missing="" if drawn else SUITE)


def ratios(cases: Mapping[str, Ways]) -> Section:
    """How much longer every opponent takes."""
    found = {
        f"{name}: {way}": row["statistics"]["p50_ratio"]
        for name, ways in cases.items()
        for way, row in ways.items()
        if way not in (ENGINE, NULL)
        and "p50_ratio" in row["statistics"]
        and row["parameters"].get("device") is None
    }
    drawn = [charts.bars("p50 over the engine's", found, "times", mark=1.0)] if found else []
    note = (
        "Above 1 the engine is faster. Operators are left out: on a CPU they run their references, "
        "which are written to be read."
    )
    return Section("Ratios to opponents", note, drawn, missing="" if drawn else SUITE)


def kernels(stored: Mapping[str, Any]) -> Section:
    """Bytes and rooflines of the shipped configurations; measured times where there are any."""
    configurations: dict[tuple[str, str], dict[int, Row]] = {}
    for row in stored.get("rows", ()):
        configurations.setdefault((row["op"], row["config"]), {})[row["sm"]] = row
    lines = []
    for (op, config), by_sm in configurations.items():
        any_card = next(iter(by_sm.values()))
        cells = [op, config, f"{any_card['bytes_ratio']:.2f}"]
        for sm in MODELLED:
            row = by_sm.get(sm)
            modelled = row["modelled_us"] if row else None
            roof = 1e6 * any_card["ideal_bytes"] / CARDS[sm].bytes_per_s
            cells += ["", ""] if modelled is None else [f"{modelled:.1f}", f"{roof / modelled:.0%}"]
            measured = row.get("measured_us") if row else None
            cells.append("not run" if measured is None else f"{measured:.1f}")
        lines.append(Line(cells))
    heads = ["operator", "configuration", "bytes / ideal"]
    for sm in MODELLED:
        name = CARDS[sm].name
        heads += [f"{name} µs, modelled", "of the roof", f"{name} µs, measured"]
    note = (
        "Bytes counted in Triton's interpreter. Modelled: the slower of bytes and flops by the "
        "card's data sheet; of the roof: the least bytes at the card's bandwidth over that."
    )
    table = Table(heads, lines, 2) if lines else None
    return Section("Kernels", note, table=table, missing="" if lines else KERNELS)


def history(releases: Mapping[str, Sequence[Row]]) -> Section:
    """p50 of every case over the releases."""
    points = {case: ([*found], [*found.values()]) for case, found in shares(releases).items()}
    title = "p50 over that of the first release"
    drawn = [charts.lines(title, points, "", "share")] if points else []
    note = "Medians of the gate's repeats, the same class of machine."
    return Section("History", note, drawn, missing="" if drawn else RELEASE)


def shares(releases: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, float]]:
    """By case and version, the engine's median p50 over that of the first version that has it."""
    medians: dict[str, dict[str, float]] = {}
    for version, rows in releases.items():
        for row in rows:
            ours = [repeat.get(ENGINE, {}).get("p50_ms") for repeat in row["repeats"]]
            if ours and None not in ours:
                medians.setdefault(row["case"], {})[version] = statistics.median(ours)
    return {
        case: {version: value / next(iter(found.values())) for version, value in found.items()}
        for case, found in medians.items()
    }


def every(cases: Mapping[str, Ways]) -> Section:
    """All times, and all numbers that are not times."""
    lines = []
    for name, ways in cases.items():
        for way, row in ways.items():
            found, ours = row["statistics"], way == ENGINE
            if "p50_ratio" in found:
                times = [f"{found[each]:.3f}" for each in ("p50_ms", "p95_ms", "p99_ms")]
                cells = [name, way, *times, f"{found['p50_ratio']:.2f}", str(int(found["n"]))]
                lines.append(Line(cells, ours))
            else:
                lines += [
                    Line([name, f"{way} {each}", f"{value:.4g}", "", "", "", ""], ours)
                    for each, value in found.items()
                ]
    heads = ("case", "way", "p50 ms, or number", "p95 ms", "p99 ms", "/ stars", "n")
    table = Table(heads, lines, 2) if lines else None
    return Section("Every case", "As stored.", table=table, missing="" if lines else SUITE)


def page(results: Path = RESULTS, releases: Path = RELEASES) -> str:
    """The report as HTML."""
    suite, profile = (read_lines(results / f"{name}.json") for name in ("suite", "profile"))
    stored = results / "kernels.json"
    of_kernels = json.loads(stored.read_text()) if stored.exists() else {}
    versions = {file.stem: read_lines(file) for file in sorted(releases.glob("*.json"))}
    cases = by_case(suite)
    sections = [
        latency(cases), load(profile), growth(cases), ratios(cases), kernels(of_kernels),
        history(versions), every(cases),
    ]  # fmt: skip
    parts = {"suite.json": suite, "profile.json": profile, "kernels.json": [of_kernels]}
    origins = dict.fromkeys(
        (name, str(row.get("machine", "")), str(row["commit"])[:12], row["command"])
        for name, rows in (parts | {f"{v}.json": rows for v, rows in versions.items()}).items()
        for row in rows
        if "command" in row
    )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(PAGE.read_text(encoding="utf-8"))
    return template.render(sections=sections, origins=list(origins))


def main(out: Annotated[Path, typer.Option(help="the page")] = OUT) -> None:
    """Writes the page."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page(), encoding="utf-8")
    print(out)


if __name__ == "__main__":
    typer.run(main)
