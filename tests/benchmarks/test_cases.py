"""The suite: what a case checks, how ways take turns, and pytest's run of it on a tiny bundle."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.case import ENGINE, Read, Setting, Timed
from benchmarks.cases import CASES, encoder, kernels, request, retrieval, server
from benchmarks.cases.request import exponent
from benchmarks.peers import Peer
from benchmarks.suite import Interleaved, Turns, store, table
from engine.errors import BackendUnavailable
from engine.serving import recommender

ROOT = Path(__file__).resolve().parents[2]
REQUESTS = ("stored_request_in_process", "live_request_in_process", "filtered_request_in_process")


def test_no_module_takes_another_ones_name() -> None:
    modules = (kernels, encoder, retrieval, request, server)
    assert sum(len(module.CASES) for module in modules) == len(CASES)


@pytest.mark.parametrize("name", REQUESTS)
def test_both_recommenders_answer_the_same(
    name: str, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _opened(name, bundle, monkeypatch) as case:
        for way in case.ways:
            case.check(way)
        found = case.repeat()
    assert found.keys() == {ENGINE, "torch"}
    assert all(row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] for row in found.values())


def test_a_wrong_answer_is_not_timed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = recommender.ranked

    def worst_first(*arguments: Any) -> Any:
        answer = right(*arguments)
        return answer._replace(items=answer.items[::-1].copy())

    with _opened(REQUESTS[0], bundle, monkeypatch) as case:
        monkeypatch.setattr(recommender, "ranked", worst_first)
        with pytest.raises(AssertionError, match="stars: request 0"):
            case.check(ENGINE)


def _opened(name: str, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(request, "ROUNDS", 5)
    return CASES[name](Setting(bundle))


@pytest.mark.parametrize("name", ["search_filtered", "search_graphs"])
def test_a_search_finds_what_it_must(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, value in (("N_ITEMS", 3000), ("N_SMALL", 3000), ("REQUESTS", 4), ("ROUNDS", 3)):
        monkeypatch.setattr(retrieval, size, value)
    with CASES[name](Setting(Path())) as case:
        assert isinstance(case, Timed)
        for way in case.ways:
            case.check(way)
        assert case.repeat().keys() == case.ways.keys()


def test_a_search_that_misses_items_is_refused() -> None:
    given = retrieval.searches(500)
    truth = [np.tile(np.arange(10), (2, 1)) for _ in range(retrieval.REQUESTS)]
    ways: dict[str, Callable[[int], Any]] = {ENGINE: lambda i: truth[i] + 1}
    case = retrieval._case("search", given, ways, truth, 0.98, Setting(Path()), "exact")
    with pytest.raises(AssertionError, match=r"stars: recall: expected 0\.98, got 0\.9"):
        case.check(ENGINE)


def test_recall_is_of_the_true_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "N_SMALL", 3000)
    monkeypatch.setattr(retrieval, "REQUESTS", 4)
    with CASES["search_recall"](Setting(Path())) as case:
        assert isinstance(case, Read)
        found = case.repeat()[ENGINE]
    assert found["recall_exact"] == found["recall_quantised"] == 1.0
    assert 0.9 <= found["recall_approximate"] <= 1.0


def test_bytes_of_a_bundle_are_at_least_those_of_what_it_holds(bundle: Path) -> None:
    with CASES["artifact_bytes"](Setting(bundle)) as case:
        assert isinstance(case, Read)
        found = case.repeat()[ENGINE]
    assert len(found) == 4
    assert all(ratio >= 1 for ratio in found.values())


def test_growth_of_a_batch_has_a_time_a_size(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "BATCHES", (1, 4))
    monkeypatch.setattr(request, "GROWTH_ROUNDS", 3)
    with CASES["growth_batch"](Setting(bundle)) as case:
        found = case.repeat()[ENGINE]
    assert found.keys() == {"p50_ms_1", "p50_ms_4", "exponent"}


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 1.3])
def test_the_exponent_of_a_power_law_is_its_power(power: float) -> None:
    sizes = (10, 100, 1000)
    assert exponent(sizes, [3.0 * size**power for size in sizes]) == pytest.approx(power)


def test_every_way_has_one_turn_a_round_in_changing_order() -> None:
    called: list[str] = []
    names = (ENGINE, "one", "other")
    turns = Interleaved({name: lambda name=name: called.append(name) for name in names})
    for _ in range(30):
        turns.before()
        called.append(ENGINE)
        turns.after()
    rounds = [tuple(called[i : i + 3]) for i in range(0, 90, 3)]
    assert all(sorted(each) == sorted(names) for each in rounds)
    assert len(set(rounds)) == 6
    assert {name: len(taken) for name, taken in turns.seconds.items()} == {"one": 30, "other": 30}


def test_a_stored_case_replaces_its_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "suite.json"
    for p50 in (1.0, 2.0):
        found = {"p50_ms": p50, "p95_ms": 3.0, "p99_ms": 4.0, "p50_ratio": 1.0, "n": 5.0}
        ways = {ENGINE: found} if p50 == 2.0 else {ENGINE: found, "gone since": found}
        turns = Turns("a", {"items": 3}, ways, {ENGINE: [1.0]}, {"nbytes": 1})
        store(turns, "random", path)
    store(Turns("b", {}, {ENGINE: {"recall": 1.0}}, {}, {}), "random", path)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["case"], row["statistics"].get("p50_ms")) for row in rows] == [
        ("a", 2.0),
        ("b", None),
    ]
    assert {"machine", "versions", "commit", "command", "parameters"} <= rows[0].keys()
    assert "recall 1" in table([Turns("b", {}, {ENGINE: {"recall": 1.0}}, {}, {})])


def test_pytest_measures_the_registry(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-only", "-q"]
    chosen = ["-k", "artifact_bytes or stored_request", "--bundle", bundle]
    done = subprocess.run(
        [*command, *chosen, f"--benchmark-json={out}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every way, in turns" in done.stdout
    found = {row["group"]: row for row in json.loads(out.read_text())["benchmarks"]}
    info = found["stored_request_in_process"]["extra_info"]
    assert {"stars p99_ms", "torch p50_ms", "items", "nbytes", "flops"} <= info.keys()
    assert info["stars p50_ms"] == pytest.approx(
        1e3 * found["stored_request_in_process"]["stats"]["median"]
    )
    assert found["artifact_bytes"]["extra_info"]["stars items_ratio"] >= 1


def test_a_missing_library_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "FOLDER", peers.FOLDER.with_name("no-peers"))
    with pytest.raises(BackendUnavailable, match="rectools: expected its environment in artifacts"):
        Peer("rectools", np.zeros((1, 5), np.int64), 10, 1)


@pytest.mark.parametrize("way", ["rectools", "replay"])
def test_a_library_answers_what_its_network_says(way: str) -> None:
    if not (peers.FOLDER / way).exists():
        pytest.skip(f"{way}: no environment; `python -m benchmarks.peers` makes it: not run")
    histories = np.random.default_rng(0).integers(0, 60, (2, 6))
    with Peer(way, histories, 60, 1) as peer:
        for n in range(2):
            assert peer.ask(n) == peer.truth(n)
            assert len(set(peer.ask(n))) == 10
