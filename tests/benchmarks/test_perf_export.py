"""What perf_analyzer exports, read: two real exports of six requests each lie in data/."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import perf_analyzer
from benchmarks.perf_analyzer import Load
from engine.errors import BackendUnavailable, ServerError

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_times_are_those_of_the_exported_requests(protocol: str) -> None:
    load = Load.read(DATA / f"{protocol}.json", DATA / f"{protocol}.csv")
    requests = json.loads((DATA / f"{protocol}.json").read_text())["experiments"][0]["requests"]
    assert len(requests) == 6
    first = min(requests, key=lambda request: request["timestamp"])
    assert load.sent_ns[0] == first["timestamp"]
    assert load.latency_ms[0] == (first["response_timestamps"][0] - first["timestamp"]) / 1e6
    assert (np.diff(load.sent_ns) > 0).all()
    last = max(request["response_timestamps"][0] for request in requests)
    assert load.throughput_per_s == pytest.approx(6e9 / (last - load.sent_ns[0]))
    assert load.arrival_per_s == pytest.approx(5e9 / (load.sent_ns[-1] - load.sent_ns[0]))
    assert load.statistics()["n"] == 6
    assert load.statistics()["p50_ms"] == pytest.approx(np.median(load.latency_ms))
    assert load.client_us > 0


def test_its_own_rate_is_not_taken() -> None:
    """perf_analyzer divided six requests of 22 ms by a whole second."""
    load = Load.read(DATA / "grpc.json", DATA / "grpc.csv")
    own = float((DATA / "grpc.csv").read_text().splitlines()[1].split(",")[1])
    assert own < 6
    assert load.throughput_per_s > 200


def test_a_request_without_an_answer_is_an_error(tmp_path: Path) -> None:
    export = json.loads((DATA / "grpc.json").read_text())
    export["experiments"][0]["requests"][2]["response_timestamps"] = []
    (tmp_path / "export.json").write_text(json.dumps(export))
    with pytest.raises(ServerError, match="one answer to each of 6 requests, got 1 without"):
        Load.read(tmp_path / "export.json", DATA / "grpc.csv")


def test_an_export_without_requests_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"export.json: .*infinite score"):
        Load.read(tmp_path / "export.json", DATA / "grpc.csv")
    (tmp_path / "export.json").write_text('{"experiments": [{"requests": []}]}')
    with pytest.raises(ServerError, match=r"export.json: expected requests, got none$"):
        Load.read(tmp_path / "export.json", DATA / "grpc.csv")


def test_a_machine_without_it_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    perf_analyzer.find.cache_clear()
    monkeypatch.setattr(perf_analyzer, "BESIDE", tmp_path / "none")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BackendUnavailable, match=r"perf_analyzer: expected one .* got none; inst"):
        perf_analyzer.find()
    broken = tmp_path / "perf_analyzer"
    broken.write_text("#!/bin/sh\necho 'version GLIBC_2.38 not found' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(perf_analyzer, "BESIDE", broken)
    with pytest.raises(BackendUnavailable, match=r"got .*GLIBC_2\.38 not found"):
        perf_analyzer.find()
    perf_analyzer.find.cache_clear()
