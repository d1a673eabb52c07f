"""The server's cases on a small bundle: real servers, real load, wrong answers caught."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.case import Read, Setting, Timed
from benchmarks.cases import server as cases
from benchmarks.cases.server import CASES, assert_same
from benchmarks.perf_analyzer import Target, find
from benchmarks.processes import mapped_files, model_process, resident_bytes
from engine.errors import BackendUnavailable
from engine.serving.client import StarsClient
from engine.serving.server import MODEL_REPOSITORY, TritonServer

EVENTS = 10


@pytest.fixture(scope="module")
def setting(bundle: Path) -> Setting:
    return Setting(bundle)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short loads, sequences that the small shop has; skips without perf_analyzer."""
    try:
        find()
    except BackendUnavailable as error:
        pytest.skip(str(error))
    monkeypatch.setattr(cases, "LOAD_S", 1.0)
    monkeypatch.setattr(cases, "EVENTS", EVENTS)
    monkeypatch.setattr(cases, "CONCURRENCIES", (1, 4))


def test_one_client_at_a_time(setting: Setting) -> None:
    with CASES["stored_grpc"](setting) as case:
        assert isinstance(case, Timed)
        assert list(case.ways) == ["stars", "null"]
        for way in case.ways:
            case.check(way)
        found = case.repeat()
    for times in found.values():
        assert 0 < times["p50_ms"] <= times["p95_ms"] <= times["p99_ms"]
    assert found["null"]["p50_ms"] < found["stars"]["p50_ms"]


def test_wrong_answers_are_caught_before_anything_is_timed(
    setting: Setting, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = StarsClient.recommend

    def swapped(client: StarsClient, *arguments, **named):
        answer = honest(client, *arguments, **named)
        order = [1, 0, *range(2, len(answer.item_ids))]
        return replace(answer, item_ids=answer.item_ids[order])

    with CASES["live_grpc"](setting) as case:
        assert list(case.ways) == ["stars", "null"]
        case.check("stars")
    monkeypatch.setattr(StarsClient, "recommend", swapped)
    with (
        CASES["live_grpc"](setting) as wrong,
        pytest.raises(AssertionError, match=r"stars: .*place 0: expected item"),
    ):
        wrong.check("stars")


def test_eight_clients(setting: Setting, short: None) -> None:
    with CASES["stored_load"](setting) as case:
        assert isinstance(case, Read)
        assert (case.parameters["concurrency"], case.parameters["seconds"]) == (8, 1.0)
        found = case.repeat()
    assert set(found) == {"stars", "null", "fastapi"}
    for statistics in found.values():
        # In a closed loop clients / throughput is the mean time, which is not beyond the slowest.
        assert 1e3 * 8 / statistics["throughput_per_s"] < 2 * statistics["p99_ms"]
        assert statistics["n"] > 50


def test_growth_with_clients(setting: Setting, short: None) -> None:
    with CASES["growth_concurrency"](setting) as case:
        (found,) = case.repeat().values()
    one, four = found["request_ms_at_1"], found["request_ms_at_4"]
    assert found["exponent"] == pytest.approx(np.log(four / one) / np.log(4))


def test_cold_start(setting: Setting, short: None) -> None:
    with CASES["cold_start"](setting) as case:
        (found,) = case.repeat().values()
    assert found["first_answer_s"] > 0
    assert 20 < found["resident_mib"] < found["resident_allowed_mib"]
    assert found["resident_allowed_mib"] == pytest.approx(700e6 / 2**20, rel=0.01)
    assert found["imports_torch"] == 0.0


def test_a_models_process_is_read_live(bundle: Path) -> None:
    import torch  # noqa: F401  what this process has mapped

    assert any("/torch/" in name for name in mapped_files(os.getpid()))
    assert resident_bytes(os.getpid()) > 50 * 2**20
    with TritonServer([MODEL_REPOSITORY], bundle) as server:
        assert server.pid is not None
        process = model_process(server.pid, "stars")
        assert any("libtriton_python" in name or "python" in name for name in mapped_files(process))
        with pytest.raises(ValueError, match=r"stars_null: expected one process .* got \[\]"):
            model_process(server.pid, "stars_null")


def test_same_answers_but_for_near_ties() -> None:
    items, scores = np.array([7, 3, 5, 9, 1]), np.array([3.0, 2.0, 1.99999, 1.0, 0.5])
    assert_same("equal", (items, scores), (items, scores))
    assert_same("ties change places", (np.array([7, 5, 3, 9, 1]), scores), (items, scores))
    assert_same("another last", (np.array([7, 3, 5, 9, 2]), scores), (items, scores))
    for what, wrong in {
        "swapped": ([3, 7, 5, 9, 1], scores),
        "another first": ([8, 3, 5, 9, 1], scores),
        "fewer": ([7, 3, 5, 9], scores[:4]),
        "scores": (items, scores + 0.01),
    }.items():
        with pytest.raises(AssertionError, match=f"{what}: "):
            assert_same(what, (np.array(wrong[0]), wrong[1]), (items, scores))


def test_the_highest_rate_is_searched_from_the_last_one(
    setting: Setting, short: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def holds(target: Target, objective_ms: float, seconds: float):
        assert objective_ms == 30.0
        limit = {"stars": 1000.0, "stars_null": 2000.0}[target.name]

        def held(rate_per_s: float) -> float | None:
            asked.append(rate_per_s)
            return rate_per_s if rate_per_s < limit else None

        return held

    monkeypatch.setattr(cases, "holds", holds)
    with CASES["poisson_rate"](setting) as case:
        found = case.repeat()
        first, asked[:] = len(asked), []
        assert case.repeat().keys() == found.keys() == {"stars", "null"}
    assert 900 < found["stars"]["highest_rate_per_s"] < 1000
    assert 1800 < found["null"]["highest_rate_per_s"] < 2000
    assert len(asked) < first
