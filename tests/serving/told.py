"""A server's own metrics, as its Prometheus endpoint tells them."""

from __future__ import annotations

import time
import urllib.request

from engine.serving.server import TritonServer

LIMIT_S = 20.0


def metrics(server: TritonServer, part: str, value: float) -> dict[str, float]:
    """All values of this project, as soon as the one whose name holds `part` has `value`."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        with urllib.request.urlopen(f"http://{server.metrics_url}/metrics") as page:
            lines = page.read().decode().splitlines()
        parts = [line.rpartition(" ") for line in lines if line.startswith("stars_")]
        told = {key: float(number) for key, _, number in parts}
        found = [number for key, number in told.items() if part in key]
        if found == [value]:
            return told
        assert time.monotonic() < deadline, f"expected {part} at {value}, got {found}"
        time.sleep(0.1)
