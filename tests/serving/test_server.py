"""The server's life: it starts, is ready, stops, says why it cannot, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import ServerError
from engine.serving import server as server_module
from engine.serving.client import StarsClient
from engine.serving.latency import NULL_REPOSITORY
from engine.serving.server import MODEL_REPOSITORY, TritonServer

LIMIT_S = 60.0


def alive(group: int) -> list[str]:
    """Command lines of the group's processes that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, process_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.05)


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")]
    return bool(caught >> (number - 1) & 1)


def test_it_is_ready_inside_the_block_and_gone_after_it(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "server.log"
    with TritonServer([NULL_REPOSITORY], None, log=log) as running:
        group = running.pid
        assert group is not None
        assert sum("triton_python_backend_stub" in line for line in alive(group)) == 1
        for url in (f"{running.http_url}/v2/health/ready", f"{running.metrics_url}/metrics"):
            with urllib.request.urlopen(f"http://{url}") as answer:
                assert answer.status == 200
        assert "successfully loaded 'stars_null'" in running.log_tail()
        assert "| Option" not in running.log_tail()
    assert alive(group) == []
    assert running.pid is None
    assert "| Option" in log.read_text()
    running.stop()  # a second time does nothing


def test_it_listens_on_localhost_only() -> None:
    with TritonServer([NULL_REPOSITORY], None) as running:
        port = int(running.http_url.rpartition(":")[2])
        listening = [
            line.split()[1]
            for table in ("/proc/net/tcp", "/proc/net/tcp6")
            for line in Path(table).read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
        ]
    assert listening == [f"0100007F:{port:04X}"]  # 127.0.0.1 in the kernel's byte order


def test_addresses_that_clients_reach() -> None:
    everywhere = TritonServer([], None, address="0.0.0.0", http_port=1, grpc_port=2, metrics_port=3)
    assert everywhere.http_url == "127.0.0.1:1"
    assert everywhere.grpc_url == "127.0.0.1:2"
    assert TritonServer([], None, address="::", metrics_port=3).metrics_url == "[::1]:3"


def test_an_exception_in_the_block_stops_it() -> None:
    running = TritonServer([NULL_REPOSITORY], None)
    groups = []

    def fail() -> None:
        with running:
            groups.append(running.pid)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert alive(groups[0]) == []


def test_a_second_start_is_refused() -> None:
    with TritonServer([NULL_REPOSITORY], None) as running:
        with pytest.raises(ServerError, match=f"expected a stopped one, got pid {running.pid}"):
            running.start()
        assert running.pid is not None


@pytest.mark.parametrize("endpoint", ["http", "grpc", "metrics"])
def test_a_port_in_use(endpoint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = f"{endpoint} port: expected a free one on 127.0.0.1, got {port}: Address already"
        with pytest.raises(ServerError, match=text):
            TritonServer([NULL_REPOSITORY], None, **{f"{endpoint}_port": port}).start()


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"model repository: expected a folder, got .*nowhere"):
        TritonServer([tmp_path / "nowhere"], None).start()


def test_a_broken_bundle_is_named_with_its_reason(bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "manifest.json").write_text("{")
    with pytest.raises(ServerError) as failure:
        TritonServer([MODEL_REPOSITORY], broken).start()
    assert "ended with status 1 before it was ready; the end of its log" in str(failure.value)
    assert "failed to load 'stars' version 1: Internal: BundleError" in str(failure.value)
    assert str(broken / "manifest.json") in str(failure.value)


def test_without_a_bundle_the_models_configuration_decides(bundle: Path, tmp_path: Path) -> None:
    repository = tmp_path / "model_repository"
    shutil.copytree(MODEL_REPOSITORY, repository)
    with pytest.raises(ServerError, match=r"BundleError: .*/artifacts/demo/bundle/manifest\.json"):
        TritonServer([repository], None).start()
    shutil.copytree(bundle, tmp_path / "artifacts" / "demo" / "bundle")
    with (
        TritonServer([repository], None) as running,
        StarsClient(running.grpc_url) as client,
    ):
        assert len(client.recommend("anybody", k=3).item_ids) == 3


def test_an_option_that_tritonserver_does_not_know() -> None:
    with pytest.raises(ServerError, match="unrecognized option '--no-such-option'"):
        TritonServer([NULL_REPOSITORY], None, extra_args=["--no-such-option"]).start()


def test_not_ready_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = subprocess.Popen

    def recorded(*args: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **options))
        return started[-1]

    monkeypatch.setattr(server_module.subprocess, "Popen", recorded)
    with pytest.raises(ServerError, match="was not ready after 0 s; the end of its log"):
        TritonServer([NULL_REPOSITORY], None, ready_limit_s=0).start()
    assert alive(started[0].pid) == []


def test_a_server_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "STOP_LIMIT_S", 0.5)
    with TritonServer([NULL_REPOSITORY], None) as running:
        group = running.pid
        assert group is not None
        os.kill(group, signal.SIGSTOP)
    assert alive(group) == []


def test_wait_says_that_the_server_ended_by_itself() -> None:
    with TritonServer([NULL_REPOSITORY], None) as running:
        assert running.pid is not None
        threading.Timer(0.2, os.kill, (running.pid, signal.SIGKILL)).start()
        with pytest.raises(ServerError, match="ended by itself with status -9; the end of its log"):
            running.wait()


def test_wait_needs_a_server() -> None:
    with pytest.raises(ServerError, match="expected a running one, got none"):
        TritonServer([NULL_REPOSITORY], None).wait()


PARENT = """
from engine.serving.latency import NULL_REPOSITORY
from engine.serving.server import TritonServer
with TritonServer([NULL_REPOSITORY], None) as running:
    print(running.pid, flush=True)
    running.wait()
print("stopped", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "status", "last_words"),
    [(signal.SIGTERM, 0, "stopped\n"), (signal.SIGINT, 0, "stopped\n"), (signal.SIGKILL, -9, "")],
    ids=["SIGTERM", "SIGINT", "SIGKILL"],
)
def test_it_ends_with_its_parent(number: int, status: int, last_words: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        group = int(parent.stdout.readline())
        assert alive(group)
        until(lambda: catches(parent.pid, signal.SIGTERM))  # it waits
        parent.send_signal(number)
        assert parent.stdout.read() == last_words
        assert parent.wait() == status
    until(lambda: not alive(group))
