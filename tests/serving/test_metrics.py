"""What a server tells of itself: recall, filters, context, ages."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bundle import Bundle
from engine.errors import ConfigError
from engine.serving.client import StarsClient
from engine.serving.drift import Drift
from engine.serving.funnel import TIMED
from engine.serving.metrics import Metrics, Reading
from engine.serving.options import Options
from engine.serving.server import MODEL_REPOSITORY, TritonServer
from tests.serving.told import metrics


def test_a_watched_server(bundle: Path) -> None:
    manifest = Bundle.open(bundle, verify=False).manifest
    at = manifest.cut
    with (
        TritonServer([MODEL_REPOSITORY], bundle, options=Options(recall_share=1)) as server,
        StarsClient(server.grpc_url) as client,
    ):
        for _ in range(3):
            client.recommend("user-003", filter='{"price": {"ge": 0}}', k=5, time=at)
        mean = [signal.mean for signal in manifest.signals]
        std = [signal.std for signal in manifest.signals]
        client.recommend("user-003", context=(np.array(mean) + 2 * np.array(std)).tolist(), time=at)
        client.recommend("user-003", stage="page", time=at)
        told = metrics(server, "stars_context_requests_total", 5)
    one = {key.partition("{")[0]: value for key, value in told.items()}
    kinds = ("wanted", "found", "hits", "misses", *TIMED)
    by = {
        (key.partition("{")[0], kind): value
        for key, value in told.items()
        for kind in kinds
        if f'"{kind}"' in key
    }
    assert by["stars_filter_total", "misses"] == 1
    assert by["stars_filter_total", "hits"] == 2
    assert by["stars_recall_items_total", "wanted"] == 2 * (3 * 5 + 10 + 40)
    asked = {stage: by["stars_stage_requests_total", stage] for stage in TIMED}
    assert asked == {"retrieve": 5, "rank": 1, "fuse": 1, "page": 1}
    assert all(by["stars_stage_seconds_total", stage] > 0 for stage in TIMED)
    assert by["stars_recall_items_total", "found"] == by["stars_recall_items_total", "wanted"]
    assert one["stars_context_signal_squares"] >= 4
    assert 0 <= one["stars_index_age_seconds"] < 60
    assert abs(one["stars_vectors_age_seconds"] - (time.time() - at)) < 60
    assert one["stars_items"] == Bundle.open(bundle, verify=False).items["active"].sum()


def test_drift_sums() -> None:
    drift = Drift(2)
    drift.add(np.array([[1, 2], [3, -2]], np.float32))
    drift.add(np.array([[0, 1]], np.float32))
    assert drift.n == 3
    assert drift.total.tolist() == [4, 1]
    assert drift.square.tolist() == [10, 9]


class Families:
    """The Python backend's MetricFamily, recorded."""

    COUNTER, GAUGE = "counter", "gauge"
    sent: list[tuple[str, str, dict[str, str], float]]

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name = name

    def Metric(self, labels: dict[str, str]) -> Any:  # noqa: N802 - the backend's name
        name = self.name

        class Metric:
            def increment(self, value: float) -> None:
                Families.sent.append((name, "increment", labels, value))

            def set(self, value: float) -> None:
                Families.sent.append((name, "set", labels, value))

        return Metric()


def test_only_what_changed_is_sent() -> None:
    values = {"a": 0.0, "b": 5.0}
    Families.sent = []
    given = [
        Reading("n_total", "", "counter", {"kind": "x"}, lambda: values["a"]),
        Reading("size", "", "gauge", {}, lambda: values["b"]),
    ]
    told = Metrics(Families, {"model": "m"}, iter(given))
    told.tell()
    told.tell()
    values.update(a=3, b=4)
    told.tell()
    values.update(a=4)
    told.tell()
    assert Families.sent == [
        ("size", "set", {"model": "m"}, 5),
        ("n_total", "increment", {"model": "m", "kind": "x"}, 3),
        ("size", "set", {"model": "m"}, 4),
        ("n_total", "increment", {"model": "m", "kind": "x"}, 1),
    ]


@pytest.mark.parametrize(
    ("given", "environment", "options"),
    [
        ({}, {}, Options()),
        ({"threads": "2", "bundle": "b"}, {}, Options(threads=2)),
        ({"threads": "2"}, {"STARS_THREADS": "3", "STARS_INDEX": "exact"},
         Options(threads=3, index="exact")),
        ({"recall_share": "0.5"}, {"STARS_RECALL_SHARE": ""}, Options(recall_share=0.5)),
    ],
)  # fmt: skip
def test_options(given: dict[str, str], environment: dict[str, str], options: Options) -> None:
    assert Options.read(given, environment) == options
    assert Options.read({}, options.environment()) == options


def test_an_option_of_another_type() -> None:
    with pytest.raises(ConfigError, match="threads: expected int, got 'many'"):
        Options.read({}, {"STARS_THREADS": "many"})
