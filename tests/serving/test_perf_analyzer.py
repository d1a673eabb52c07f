"""NVIDIA's perf_analyzer against the server: its requests are valid, and they batch."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import tritonclient.grpc

from engine.serving.server import TritonServer

BESIDE = Path(__file__).resolve().parents[3] / "shared" / "tools" / "perf_analyzer"
LIMIT_S = 300
REQUESTS, K = 400, 20


@pytest.fixture(scope="module")
def perf_analyzer() -> str:
    """The one on PATH, or the wrapper that brings a newer libc with it."""
    reasons = []
    for path in (shutil.which("perf_analyzer"), str(BESIDE) if BESIDE.is_file() else None):
        if path is not None:
            probe = subprocess.run(
                [path, "--version"], capture_output=True, text=True, timeout=LIMIT_S, check=False
            )
            if probe.returncode == 0:
                return path
            reasons.append(f"{path}: {probe.stderr.strip()[-200:]}")
    pytest.skip(f"perf_analyzer does not run here: {'; '.join(reasons) or 'none was found'}")


@pytest.fixture(scope="module")
def requests_file(catalogue: list[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stored users with 0 to 4 new events; every tensor is there, of length 0 where empty."""
    nothing = {"content": [], "shape": [0]}
    rows = [
        {
            "user_id": [f"user-{n:03}"],
            "item_ids": {"content": catalogue[:n], "shape": [n]},
            "event_types": nothing,
            "event_times": nothing,
            "context": nothing,
        }
        for n in range(5)
    ]
    path = tmp_path_factory.mktemp("perf") / "requests.json"
    path.write_text(json.dumps({"data": rows}))
    return path


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_it_measures_the_server(
    perf_analyzer: str, requests_file: Path, server: TritonServer, tmp_path: Path, protocol: str
) -> None:
    before = _statistics(server)
    export = tmp_path / "export.json"
    command = [
        perf_analyzer,
        *("-m", "stars", "-i", protocol),
        *("-u", server.grpc_url if protocol == "grpc" else server.http_url),
        *("--input-data", str(requests_file)),
        *("--concurrency-range", "8", "--request-count", str(REQUESTS)),
        *("--profile-export-file", str(export), "-f", str(tmp_path / "report.csv")),
    ]
    if protocol == "grpc":  # perf_analyzer sends parameters over gRPC only
        command += ["--request-parameter", f"k:{K}:int"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    answers = json.loads(export.read_text())["experiments"][0]["requests"]
    assert len(answers) == REQUESTS
    for answer in answers:
        assert len(answer["response_outputs"][0]["item_ids"]) == (K if protocol == "grpc" else 10)
    assert "p99 latency" in (tmp_path / "report.csv").read_text()
    after = _statistics(server)
    inferences = after.inference_count - before.inference_count
    assert inferences == REQUESTS
    assert after.execution_count - before.execution_count < inferences


def _statistics(server: TritonServer) -> tritonclient.grpc.service_pb2.ModelStatistics:
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        return client.get_inference_statistics("stars").model_stats[0]
