"""`stars profile`: a served bundle beside its null model, under perf_analyzer.

    python -m benchmarks.profile [--bundle B] [--json FILE] [--quick] [--protocol grpc,http]
        [--scenario stored,live,filtered,mixed] [--objective-ms 30]

One server has both models. For each protocol and scenario: a sweep of concurrency, a sweep of
Poisson rates, where the time of a request goes, and the highest rate that holds the objective.
Scenarios with filters go over HTTP alone (benchmarks/load_inputs.py). Rows replace those of the
same protocol, scenario, load and model.
"""

import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import tritonclient.grpc
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from engine.bundle import Bundle
from engine.errors import StarsError
from engine.serving.latency import NULL_REPOSITORY
from engine.serving.options import Options
from engine.serving.server import MODEL_REPOSITORY, TritonServer

from .load_inputs import (
    EVENTS,
    SCENARIOS,
    Scenario,
    make_scenario,
    write_bodies,
    write_tensors,
)
from .perf_analyzer import (
    Load,
    Protocol,
    Target,
    Unfinished,
    closed_loop,
    find,
    holds,
    poisson,
)
from .rate_search import highest_rate
from .shop_bundle import TRAINED
from .stored import Row, replace_rows, surroundings

MODELS = ("stars", "stars_null")
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http")
CONCURRENCIES = (1, 2, 4, 8, 16)
SHARES = (0.25, 0.5, 0.75)  # of what eight clients reach: the rates of the sweep
BUSY, WARM_S = 8, 1.5
KEY = ("protocol", "scenario", "load", "value", "model")
LIBRARIES = ("nvidia-pytriton", "tritonclient", "numpy", "onnxruntime", "openvino")
# Where a request's time goes; the server's own are Triton's statistics, and `network` what is left.
STAGES = ("client", "network", "queue", "input", "compute", "output")
_SERVER = {
    "queue": "queue",
    "input": "compute_input",
    "compute": "compute_infer",
    "output": "compute_output",
}


@dataclass(frozen=True)
class Effort:
    """How long and how often things are measured.

    Attributes:
        seconds: of each run.
        concurrencies, shares: of the sweeps; BUSY is among the first.
        confirm, tolerance: of `highest_rate`.
    """

    seconds: float
    concurrencies: tuple[int, ...]
    shares: tuple[float, ...]
    confirm: int
    tolerance: float


FULL = Effort(4.0, CONCURRENCIES, SHARES, confirm=3, tolerance=0.05)
QUICK = Effort(2.0, (1, BUSY), (0.5,), confirm=1, tolerance=0.15)


class Statistics:
    """Triton's statistics of a model since it was made: mean microseconds of a request by stage."""

    def __init__(self, client: tritonclient.grpc.InferenceServerClient, model: str) -> None:
        self._client, self._model = client, model
        self._count, self._ns = self._read()

    def _read(self) -> tuple[int, dict[str, int]]:
        all_models = self._client.get_inference_statistics(self._model)
        found = all_models.model_stats[0].inference_stats
        times = {stage: getattr(found, field).ns for stage, field in _SERVER.items()}
        return found.success.count, times | {"whole": found.success.ns}

    def means_us(self) -> dict[str, float]:
        """By stage, and `whole`, which is a little more than their sum."""
        count, ns = self._read()
        return {k: (ns[k] - self._ns[k]) / (count - self._count) / 1e3 for k in ns}


def budget(load: Load, server_us: Mapping[str, float]) -> dict[str, float]:
    """Mean microseconds of a request in each of STAGES."""
    network = load.latency_ms.mean() * 1e3 - load.client_us - server_us["whole"]
    found = {"client": load.client_us, "network": float(network), **server_us}
    return {f"{stage}_us": found[stage] for stage in STAGES}


class Profile:
    """Measures the models of one server under one scenario over one protocol."""

    def __init__(
        self, server: TritonServer, protocol: Protocol, scenario: Scenario, inputs: Path
    ) -> None:
        grpc = protocol == "grpc"
        inputs = (write_tensors if grpc else write_bodies)(scenario, inputs)
        self._client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
        self._about = {"protocol": protocol, "scenario": scenario.name}
        self._targets = {
            model: Target(
                server.grpc_url if grpc else server.http_url,
                protocol,
                model if grpc else f"v2/models/{model}/infer",
                inputs,
                scenario.parameters,
            )
            for model in MODELS
        }

    def rows(self, effort: Effort, objective_ms: float) -> Iterator[Row]:
        """The sweeps of concurrency and rate, the models in turns; then their highest rates."""
        for target in self._targets.values():
            closed_loop(target, BUSY, WARM_S)
        reached = dict.fromkeys(MODELS, 0.0)
        for concurrency in effort.concurrencies:
            for model, target in self._targets.items():
                statistics = Statistics(self._client, model)
                load = closed_loop(target, concurrency, effort.seconds)
                if concurrency == BUSY:
                    reached[model] = load.throughput_per_s
                yield self._row("concurrency", concurrency, model, load, statistics)
        for share in effort.shares:
            for model, target in self._targets.items():
                statistics = Statistics(self._client, model)
                try:
                    load = poisson(target, share * reached[model], effort.seconds)
                except Unfinished as error:  # more than the server can take, or it lost a request
                    print(f"{error}: no row", file=sys.stderr)
                    continue
                yield self._row("poisson", share, model, load, statistics)
        for model, target in self._targets.items():
            held = holds(target, objective_ms, effort.seconds)
            start, tolerance = 0.7 * reached[model], effort.tolerance
            rate = highest_rate(held, start, tolerance=tolerance, confirm=effort.confirm)
            about = {"load": "highest", "value": objective_ms, "model": model}
            yield self._about | about | {"highest_rate_per_s": rate}

    def _row(self, kind: str, value: float, model: str, load: Load, statistics: Statistics) -> Row:
        """One run; perf_analyzer fails where a request does, so there are no errors in any row."""
        about = {**self._about, "load": kind, "value": value, "model": model, "errors": 0}
        sent = {"arrival_per_s": load.arrival_per_s}
        return about | load.statistics() | sent | budget(load, statistics.means_us())


@contextmanager
def profiled(bundle: Path, threads: int) -> Iterator[TritonServer]:
    """A server with both models. Raises BackendUnavailable where a part is missing."""
    find()
    options = Options(threads=threads)
    with TritonServer([MODEL_REPOSITORY, NULL_REPOSITORY], bundle, options=options) as server:
        yield server


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """What the runs of one protocol and scenario reached, and where a request's time went."""
    title = f"{rows[0]['scenario']} over {rows[0]['protocol']}"
    reached = _table("load", "model", "n", "requests/s", "p50 ms", "p95 ms", "p99 ms", title=title)
    spent = _table("load", "model", *STAGES, title=f"{title}: mean µs of a request")
    for row in rows:
        if row["load"] == "highest":
            load, rate = f"p99 ≤ {row['value']:g} ms", f"{row['highest_rate_per_s']:.0f}"
            reached.add_row(load, row["model"], "", rate)
            continue
        load = f"{row['value']:g} clients"
        if row["load"] == "poisson":
            load = f"Poisson {row['arrival_per_s']:.0f}/s"
        times = (f"{row[f'{name}_ms']:.2f}" for name in ("p50", "p95", "p99"))
        rate = f"{row['throughput_per_s']:.0f}"
        reached.add_row(load, row["model"], str(row["n"]), rate, *times)
        spent.add_row(load, row["model"], *(f"{row[f'{stage}_us']:.0f}" for stage in STAGES))
    return [reached, spent]


def _table(*heads: str, title: str) -> Table:
    table = Table(title=title, box=SIMPLE)
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < 2 else "right", no_wrap=True)
    return table


def profile(
    bundle: Path,
    protocols: Sequence[Protocol],
    scenarios: Sequence[str],
    effort: Effort,
    *,
    objective_ms: float = 30.0,
    events: int = EVENTS,
    threads: int = 1,
) -> Iterator[list[Row]]:
    """Rows of each protocol and scenario, as they are measured; see `main` for the arguments."""
    opened = Bundle.open(bundle)
    with profiled(bundle, threads) as server, tempfile.TemporaryDirectory() as folder:
        for protocol, name in product(protocols, scenarios):
            scenario = make_scenario(name, opened, events)
            if protocol == "http" or not scenario.is_filtered:
                file = Path(folder) / f"{protocol}-{name}.json"
                measured = Profile(server, protocol, scenario, file)
                yield [row | {"threads": threads} for row in measured.rows(effort, objective_ms)]


app = typer.Typer(add_completion=False)


@app.command()
def main(
    bundle: Annotated[Path, typer.Option(help="folder of the served bundle")] = TRAINED,
    json_file: Annotated[Path | None, typer.Option("--json", help="stores the rows here")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="fewer and shorter runs")] = False,
    protocol: Annotated[str, typer.Option(help="of grpc, http")] = ",".join(PROTOCOLS),
    scenario: Annotated[str, typer.Option(help=f"of {', '.join(SCENARIOS)}")] = ",".join(SCENARIOS),
    objective_ms: Annotated[float, typer.Option(help="99th percentile that must hold")] = 30.0,
    events: Annotated[int, typer.Option(min=1, help="of a live sequence")] = EVENTS,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the engine")] = 1,
) -> None:
    """Puts a served bundle and its null model under load, and shows where the time goes."""
    asked = [_listed("--protocol", protocol, PROTOCOLS), _listed("--scenario", scenario, SCENARIOS)]
    around, console = surroundings("benchmarks.profile", LIBRARIES), Console()
    try:
        for rows in profile(
            bundle,
            *asked,
            QUICK if quick else FULL,
            objective_ms=objective_ms,
            events=events,
            threads=threads,
        ):
            for table in tables_of(rows):
                console.print(table)
            if json_file is not None:
                json_file.parent.mkdir(parents=True, exist_ok=True)
                replace_rows(json_file, [row | around for row in rows], KEY)
    except StarsError as error:
        print(f"stars: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def _listed(option: str, text: str, known: Collection[str]) -> list[Any]:
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise typer.BadParameter(f"{option}: expected {', '.join(known)}, got {unknown[0]!r}")
    return names


if __name__ == "__main__":
    app()
