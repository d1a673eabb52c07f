"""External signals from a file and from a real Redis."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from engine.bundle import Bundle
from engine.errors import ConfigError, RequestError, SignalError
from engine.serving import signals
from engine.serving.client import StarsClient
from engine.serving.options import Options
from engine.serving.query import NOW_S
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request
from engine.serving.server import MODEL_REPOSITORY, TritonServer
from engine.serving.signals import PREFIX, FileSignals, RedisSignals, open_signals
from engine.store.redis import TIMEOUT_MS
from tests.serving.told import metrics
from tests.store.redis_server import RedisServer

NAMES = ["temperature", "rain"]


def put(path: Path, value: Any) -> Path:
    """Replaces the file as a writer should: by a rename."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    return new.rename(path)


def test_a_file_counts_as_soon_as_it_changes(tmp_path: Path) -> None:
    path = put(tmp_path / "now.json", {"": {"rain": 0}, "berlin": {"temperature": 4.5, "rain": 1}})
    source = open_signals(str(path), NAMES)
    assert source.at("") == {"rain": 0}
    assert source.at("berlin") == {"rain": 1, "temperature": 4.5}
    assert source.at("paris") == {"rain": 0}
    put(path, {"berlin": {"rain": 0}})
    assert source.at("berlin") == {"rain": 0}
    assert source.at("") == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "expected an object, got"),
        ({"": 3}, "'': expected an object, got 3"),
        ({"": {"snow": 1}}, "expected signals of temperature, rain, got 'snow'"),
        ({"x": {"rain": "wet"}}, "'x': rain: expected a finite number, got 'wet'"),
        ({"x": {"rain": True}}, "rain: expected a finite number, got True"),
        ({"x": {"rain": float("inf")}}, "rain: expected a finite number, got inf"),
    ],
)
def test_what_a_file_must_hold(tmp_path: Path, content: Any, message: str) -> None:
    path = put(tmp_path / "now.json", {})
    source = FileSignals(path, NAMES)
    put(path, content)
    for _ in range(2):  # a broken file stays an error until it is mended
        with pytest.raises(SignalError, match=message):
            source.at("")
    put(path, {"": {"rain": 2}})
    assert source.at("") == {"rain": 2}


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(SignalError, match=r"now\.json: expected JSON, got .*No such file"):
        open_signals(str(tmp_path / "now.json"), NAMES)
    with pytest.raises(ConfigError, match="expected a file, redis:// or rediss://, got 'http:"):
        open_signals("http://somewhere", NAMES)


def test_redis(redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "REFRESH_S", 0.05)
    writer = redis.Redis.from_url(redis_server.url)
    writer.hset(f"{PREFIX}berlin", mapping={"temperature": "4.5"})
    writer.hset(PREFIX, mapping={"rain": "0"})
    source = open_signals(redis_server.url, NAMES)
    assert source.at("berlin") == {"rain": 0, "temperature": 4.5}
    writer.hset(f"{PREFIX}berlin", mapping={"rain": "1"})
    time.sleep(0.06)
    assert source.at("berlin") == {"rain": 1, "temperature": 4.5}
    writer.hset(f"{PREFIX}berlin", mapping={"rain": "much"})
    time.sleep(0.06)
    with pytest.raises(SignalError, match=r"stars:signals:berlin: rain: expected a finite number"):
        source.at("berlin")
    assert source.at("") == {"rain": 0}


def test_an_address_that_is_no_redis() -> None:
    with pytest.raises(ConfigError, match=r"signals redis://x/: expected a Redis URL, got "):
        open_signals("redis://x/?socket_timeouts=1", NAMES)


def test_a_silent_redis_is_asked_once_a_second(redis_server: RedisServer) -> None:
    source = RedisSignals(redis_server.url, NAMES)
    assert source.at("") == {}
    redis_server.pause()
    source._known.clear()
    begin = time.monotonic()
    for _ in range(100):
        with pytest.raises(SignalError, match=r"signals: redis 127\.0\.0\.1"):
            source.at("")
    assert time.monotonic() - begin < 10 * TIMEOUT_MS / 1000


def test_a_recommender_reads_what_is_known_now(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle, verify=False)
    (feature, *_) = opened.manifest.signals
    path = put(tmp_path / "now.json", {"berlin": {feature.name: feature.mean + 3 * feature.std}})
    recommender = Recommender(opened, Options(signals=str(path)))

    def told(place: str = "", ago_s: int = 0, context: Any = None) -> float:
        request = Request(
            "user-003", np.zeros(0, np.int64), None, None, context, 5, "next", "allow", None,
            int(time.time()) - ago_s, True, place,
        )  # fmt: skip
        (reply,) = recommender.recommend([request])
        assert isinstance(reply, Reply)
        assert reply.explanation is not None
        value = json.loads(reply.explanation)["context"]["signals"][feature.name]
        return round((value - feature.mean) / feature.std, 3)

    assert told("berlin") == 3
    assert told() == told("berlin", ago_s=2 * NOW_S) == 0, "no place, and not now"
    mine = np.array([f.mean for f in opened.manifest.signals], np.float32)
    mine[0] -= feature.std
    assert told("berlin", context=mine) == pytest.approx(-1, abs=0.01)
    assert recommender.signal_errors == 0
    put(path, {"berlin": {feature.name: 1e12}})
    assert told("berlin") == 0
    path.write_text("{")
    assert told("berlin") == 0
    assert recommender.signal_errors == 2


def test_a_server_with_signals(bundle: Path, tmp_path: Path) -> None:
    (feature, *_) = Bundle.open(bundle, verify=False).manifest.signals
    path = put(tmp_path / "now.json", {"x": {feature.name: feature.mean + 2 * feature.std}})
    options = Options(signals=str(path))
    with (
        TritonServer([MODEL_REPOSITORY], bundle, options=options) as server,
        StarsClient(server.grpc_url) as client,
    ):
        told = client.recommend("user-003", place="x", explain=True).explanation
        assert told is not None
        value = told["context"]["signals"][feature.name]
        assert value == pytest.approx(feature.mean + 2 * feature.std, rel=1e-3)
        path.unlink()
        assert len(client.recommend("user-003", place="x").item_ids) == 10
        metrics(server, "stars_signal_errors_total", 1)
        with pytest.raises(RequestError, match="place: expected a string of at most 128"):
            client.recommend("user-003", place="x" * 129)
