"""`stars profile` on a real server: its loads, its budget, and what makes it fail."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tritonclient.grpc
from typer.testing import CliRunner

from benchmarks import perf_analyzer, profile
from benchmarks.load_inputs import (
    SCENARIOS,
    make_scenario,
    stored,
    write_bodies,
    write_tensors,
)
from benchmarks.perf_analyzer import Target, Unfinished, closed_loop, find, holds, poisson
from benchmarks.profile import STAGES, Effort, Profile, Statistics, budget, profiled, tables_of
from engine.bundle import Bundle
from engine.errors import BackendUnavailable, DataError, ServerError
from engine.serving.server import TritonServer

EVENTS = 10
BRIEF = Effort(1.0, (8,), (0.3,), confirm=1, tolerance=0.1)


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[TritonServer]:
    try:
        find()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with profiled(bundle, threads=1) as running:
        yield running


def _target(server: TritonServer, inputs: Path, protocol: str = "http", **parameters) -> Target:
    if protocol == "grpc":
        return Target(server.grpc_url, "grpc", "stars", inputs, parameters)
    return Target(server.http_url, "http", "v2/models/stars/infer", inputs, parameters)


def test_rows_of_a_scenario(
    server: TritonServer, opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The search has tests of its own; here a rate holds below what was given as the objective.
    monkeypatch.setattr(
        profile, "holds", lambda target, limit, s: lambda r: r if r < limit else None
    )
    measured = Profile(server, "grpc", stored(opened), tmp_path / "inputs.json")
    rows = list(measured.rows(BRIEF, objective_ms=200.0))
    assert [(row["load"], row["model"]) for row in rows] == [
        (load, model)
        for load in ("concurrency", "poisson", "highest")
        for model in ("stars", "stars_null")
    ]
    for row in rows[:4]:
        assert row["n"] >= 100
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert all(row[f"{stage}_us"] > 0 for stage in STAGES)
    assert rows[0]["compute_us"] > rows[1]["compute_us"]  # the null model computes nothing
    assert rows[2]["arrival_per_s"] == pytest.approx(0.3 * rows[0]["throughput_per_s"], rel=0.2)
    assert 150.0 < rows[4]["highest_rate_per_s"] < 200.0
    reached, spent = tables_of(rows)
    assert (reached.row_count, spent.row_count) == (6, 4)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_budget_adds_up_to_the_latency(
    server: TritonServer, opened: Bundle, tmp_path: Path, protocol: str
) -> None:
    scenario = stored(opened)
    write = write_tensors if protocol == "grpc" else write_bodies
    target = _target(server, write(scenario, tmp_path / "in"), protocol, **scenario.parameters)
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        statistics = Statistics(client, "stars")
        load = closed_loop(target, concurrency=4, seconds=1.5)
        server_us = statistics.means_us()
    spent = budget(load, server_us)
    # What the server takes between its stages is in none of them.
    assert sum(spent.values()) == pytest.approx(load.latency_ms.mean() * 1e3, rel=0.05)
    stages = sum(server_us[stage] for stage in ("queue", "input", "compute", "output"))
    assert server_us["whole"] == pytest.approx(stages, rel=0.1)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_is_answered(
    server: TritonServer, opened: Bundle, tmp_path: Path, name: str
) -> None:
    scenario = make_scenario(name, opened, EVENTS)
    inputs = write_bodies(replace(scenario, asks=scenario.asks[:20]), tmp_path / "inputs.json")
    load = poisson(_target(server, inputs), rate_per_s=300.0, seconds=1.0)
    assert len(load.latency_ms) == 300


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_refused_request_makes_it_fail(
    server: TritonServer, opened: Bundle, tmp_path: Path, protocol: str
) -> None:
    scenario = stored(opened)
    asks = (*scenario.asks[:3], {"user_id": "", "item_ids": [5]})
    write = write_tensors if protocol == "grpc" else write_bodies
    inputs = write(replace(scenario, asks=asks), tmp_path / "inputs.json")
    target = _target(server, inputs, protocol, **scenario.parameters)
    with pytest.raises(ServerError, match="expected an id of the catalogue, got 5"):
        closed_loop(target, concurrency=2, seconds=0.6)


def test_a_run_that_does_not_end_did_not_keep_up(
    server: TritonServer, opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = _target(server, write_bodies(stored(opened), tmp_path / "inputs.json"))
    assert holds(target, objective_ms=1e4, seconds=1.0)(200.0) is not None
    assert holds(target, objective_ms=1e-3, seconds=1.0)(200.0) is None
    monkeypatch.setattr(perf_analyzer, "LIMIT_S", -1.9)
    with pytest.raises(Unfinished, match=r"to end within 0\.1 s"):
        poisson(target, rate_per_s=200.0, seconds=1.0)
    assert holds(target, objective_ms=1e4, seconds=1.0)(200.0) is None


def test_a_rate_that_does_not_end_is_said_and_left_out(
    server: TritonServer,
    opened: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def unfinished(target: Target, rate_per_s: float, seconds: float) -> None:
        raise Unfinished(f"{target.name}: expected an end")

    monkeypatch.setattr(profile, "poisson", unfinished)
    monkeypatch.setattr(profile, "highest_rate", lambda held, start, **options: start)
    measured = Profile(server, "grpc", stored(opened), tmp_path / "inputs.json")
    loads = [row["load"] for row in measured.rows(BRIEF, objective_ms=200.0)]
    assert loads == ["concurrency", "concurrency", "highest", "highest"]
    assert "stars: expected an end: no row" in capsys.readouterr().err


def test_a_closed_loop_that_hangs_is_asked_once_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = Target("nowhere:1", "grpc", "stars", tmp_path, {})
    export = Path(__file__).parent / "data"
    load = perf_analyzer.Load.read(export / "grpc.json", export / "grpc.csv")
    hangs: list[bool] = []

    def run(*arguments: object) -> perf_analyzer.Load:
        if hangs.pop():
            raise Unfinished("stars: expected perf_analyzer to end")
        return load

    monkeypatch.setattr(perf_analyzer, "_run", run)
    hangs[:] = [False, True]
    assert closed_loop(target, concurrency=2) is load
    assert "expected perf_analyzer to end; asked once more" in capsys.readouterr().err
    hangs[:] = [True, True]
    with pytest.raises(Unfinished):
        closed_loop(target, concurrency=2)


def test_scenarios_are_the_bundles_own(opened: Bundle, tmp_path: Path) -> None:
    mixed = make_scenario("mixed", opened, EVENTS).asks
    kinds = [("user_id" in ask, "item_ids" in ask, "filter" in ask) for ask in mixed[:5]]
    assert kinds == [
        (True, False, False), (True, False, True), (True, True, False), (True, False, False),
        (False, True, False),
    ]  # fmt: skip
    sequence = make_scenario("live", opened, EVENTS).asks[0]
    users = opened.users.get_many([ask["user_id"] for ask in stored(opened).asks])
    ends = [opened.items["item_ids"][user.items[-EVENTS:]].tolist() for user in users]
    assert sequence["item_ids"] in ends
    with pytest.raises(DataError, match="expected one of 9999 events or more, got at most"):
        make_scenario("live", opened, 9999)
    with pytest.raises(DataError, match="filtered: expected no filters over gRPC"):
        write_tensors(make_scenario("filtered", opened), tmp_path / "inputs.json")


def test_the_filter_keeps_a_fifth_of_the_items(opened: Bundle) -> None:
    predicate = json.loads(make_scenario("filtered", opened).asks[0]["filter"])
    column = opened.columns["subclass"]
    chosen = [column.codes[name] for name in predicate["subclass"]["in"]]
    share = float(sum((column.data == code).mean() for code in chosen))
    assert 0.2 <= share < 0.2 + float((column.data == chosen[-1]).mean())


def test_bad_options_are_refused(bundle: Path) -> None:
    run = CliRunner().invoke(profile.app, ["--bundle", str(bundle), "--protocol", "carrier-pigeon"])
    assert run.exit_code == 2
    assert "expected grpc, http, got 'carrier-pigeon'" in " ".join(run.output.split())
    run = CliRunner().invoke(
        profile.app, ["--bundle", str(bundle / "none"), "--scenario", "stored"]
    )
    assert run.exit_code == 1
    assert "manifest.json" in run.output
