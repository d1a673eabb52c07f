"""What is kept of a user's last request, and when it may be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bundle import Bundle
from engine.compile.export import export_graphs
from engine.compile.samples import random_batch
from engine.data.clock import Clock
from engine.features import Calendar, History, UserFeatures, encode_inputs, window_start
from engine.model.build import model_data
from engine.model.stars import Stars
from engine.runtime.onnx_cpu import OnnxAppendEncoder, OnnxEncoder
from engine.serving.client import StarsClient
from engine.serving.live import KINDS, LiveEncoder, LiveRequest
from engine.serving.options import Options
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request
from engine.serving.server import MODEL_REPOSITORY, TritonServer
from tests.serving.told import metrics
from tests.tiny import tiny_config, tiny_shop, trained_like

WINDOW, HOP = 12, 4
N_ITEMS = 30
SHOP = tiny_shop()
DATA = replace(model_data(SHOP), n_event_types=2)
MODEL = trained_like(Stars(tiny_config(window=WINDOW, hop=HOP).model, DATA))
ROWS = np.random.default_rng(0).standard_normal((N_ITEMS, 16)).astype(np.float32)
CALENDAR = Calendar(Clock("UTC"), True, 19_000, SHOP.signals)
DAY = 86_400


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    export_graphs(MODEL, folder, [random_batch(MODEL, 4, WINDOW, seed=0)])
    return folder


class Live:
    """A LiveEncoder, and what each request should give: the whole window, encoded afresh."""

    def __init__(self, graphs: Path, max_bytes: int = 1 << 30) -> None:
        self.encoder = OnnxEncoder(graphs / "encode.onnx")
        append = OnnxAppendEncoder(graphs / "append.onnx", WINDOW + 1)
        self.one = append.empty().bytes
        self.rows = ROWS
        self.live = LiveEncoder(
            self.encoder, append, ROWS, CALENDAR, WINDOW, HOP, max_bytes * self.one
        )

    def ask(self, *requests: LiveRequest) -> dict[str, int]:
        """Counts that the requests moved; their vectors are compared with fresh ones."""
        before = self.live.counts.copy()
        got = self.live.encode(requests)
        for request, vectors in zip(requests, got, strict=True):
            users = UserFeatures(request.categorical[None], request.numeric[None])
            inputs = encode_inputs([request.history], users, self.rows, CALENDAR, WINDOW, HOP)
            fresh = np.stack(self.encoder.encode(inputs), axis=1)[0]
            np.testing.assert_allclose(vectors, fresh, rtol=1e-4, atol=2e-5)
        return dict(self.live.counts - before)


@pytest.fixture
def live(graphs: Path) -> Live:
    return Live(graphs)


def history(n: int, seed: int = 0, changed: dict[int, int] | None = None) -> History:
    """The first n events of a user; `changed` items by place."""
    rng = np.random.default_rng(seed)
    items = rng.integers(0, N_ITEMS, 100).astype(np.int32)
    times = np.cumsum(rng.integers(60, 3 * DAY, 100)) + 19_000 * DAY
    for place, item in (changed or {}).items():
        items[place] = item
    return History(items[:n], times[:n], np.zeros(n, np.int32))


def of(user: str | None, events: History, code: int = 1) -> LiveRequest:
    categorical = np.full(len(SHOP.user_categorical[0]), code, np.int32)
    return LiveRequest(user, events, categorical, np.zeros_like(SHOP.user_numeric[0]))


def test_new_events_alone_are_computed(live: Live) -> None:
    assert live.ask(of("a", history(5))) == {"first": 1}
    assert live.ask(of("a", history(6))) == {"appended": 1}
    assert live.ask(of("a", history(6))) == {"unchanged": 1}
    assert live.ask(of("a", history(12))) == {"appended": 1}
    assert (len(live.live), live.live.bytes) == (1, live.one)


def test_a_hop_encodes_the_new_window(live: Live) -> None:
    live.ask(of("a", history(12)))
    assert live.ask(of("a", history(13))) == {"hop": 1}
    assert live.ask(of("a", history(16))) == {"appended": 1}
    assert live.ask(of("a", history(30))) == {"hop": 1}


@pytest.mark.parametrize(
    "events",
    [history(6, changed={2: 29}), history(4), history(8, seed=1),
     History(history(6).items, history(6).times + 1, history(6).types),
     History(history(6).items, history(6).times, np.ones(6, np.int32))],
)  # fmt: skip
def test_another_history_is_encoded_afresh(live: Live, events: History) -> None:
    live.ask(of("a", history(5)))
    assert live.ask(of("a", events)) == {"diverged": 1}
    assert live.ask(of("a", events)) == {"unchanged": 1}


def test_the_event_before_the_window_counts(live: Live) -> None:
    """The first event's recency depends on it, though it is no part of the window."""
    live.ask(of("a", history(14)))
    moved = history(15)
    moved.times[3] -= 5 * DAY
    assert live.ask(of("a", moved)) == {"diverged": 1}
    assert live.ask(of("a", history(15, changed={0: 29}))) == {"diverged": 1}
    # What lies before that is not read by anybody.
    assert live.ask(of("a", history(16))) == {"appended": 1}


def test_features_and_tables_are_part_of_the_key(live: Live) -> None:
    live.ask(of("a", history(5)))
    assert live.ask(of("a", history(6), code=0)) == {"features": 1}
    live.rows = ROWS[::-1].copy()
    live.live.set_rows(live.rows)
    assert live.ask(of("a", history(7), code=0)) == {"features": 1}
    assert live.ask(of("a", history(8), code=0)) == {"appended": 1}


def test_users_of_one_batch(live: Live) -> None:
    live.ask(of("a", history(5)), of("b", history(5, seed=1)))
    moved = live.ask(
        of("b", history(6, seed=1)),
        of(None, history(9)),
        of("a", history(6)),
        of("c", history(6)),
        of("a", history(8)),
        of("b", history(6, seed=1)),
        of("d", history(0)),
    )
    assert moved == {"appended": 3, "stateless": 2, "first": 1, "unchanged": 1}
    assert len(live.live) == 3


def test_who_asked_longest_ago_is_forgotten(graphs: Path) -> None:
    live = Live(graphs, max_bytes=2)
    for user in "ab":
        live.ask(of(user, history(5)))
    live.ask(of("a", history(6)))
    assert live.ask(of("c", history(5))) == {"first": 1, "evicted": 1}
    assert live.ask(of("a", history(7))) == {"appended": 1}
    assert live.ask(of("b", history(5))) == {"first": 1, "evicted": 1}
    assert (len(live.live), live.live.bytes) == (2, 2 * live.one)


def test_room_for_nobody(graphs: Path) -> None:
    live = Live(graphs, max_bytes=0)
    assert live.ask(of("a", history(5))) == {"first": 1, "evicted": 1}
    assert (len(live.live), live.live.bytes) == (0, 0)


def test_a_planted_error_is_seen(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the events not compared, an edited history would get the old one's vectors."""
    from engine.serving import live as module

    live.ask(of("a", history(5)))
    monkeypatch.setattr(module._Entry, "is_extended_by", lambda *_: True)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        live.ask(of("a", history(6, changed={2: 29})))


def test_without_an_append_graph_nothing_is_kept(graphs: Path) -> None:
    encoder: Any = OnnxEncoder(graphs / "encode.onnx")
    live = LiveEncoder(encoder, None, ROWS, CALENDAR, WINDOW, HOP, 1 << 30)
    live.encode([of("a", history(5)), of("a", history(6))])
    assert live.counts["stateless"] == 2
    assert len(live) == 0


def test_the_server_keeps_and_counts(bundle: Path) -> None:
    """A known user's growing history on the real server: new events alone, the same answers."""
    opened, user = Bundle.open(bundle, verify=False), "user-003"
    (record,) = opened.users.get_many([user])
    assert record is not None
    starts = {window_start(len(record.items) + n, 40, 10) for n in (1, 4)}
    assert len(starts) == 1, "the window must not hop here"
    ids = opened.items["item_ids"][[3, 1, 4, 7]]
    times = int(record.times[-1]) + DAY * np.arange(1, 5)
    plain = Recommender(opened, Options(cache_mib=0))
    with TritonServer([MODEL_REPOSITORY], bundle) as server, StarsClient(server.grpc_url) as client:
        for n in (1, 2, 4, 4):
            got = client.recommend(user, ids[:n], [], times[:n], time=int(times[-1]))
            request = Request(
                user, ids[:n], None, times[:n], None, 10, "round_robin", "allow", None,
                int(times[-1]), False,
            )  # fmt: skip
            (fresh,) = plain.recommend([request])
            assert isinstance(fresh, Reply)
            np.testing.assert_array_equal(got.item_ids, fresh.item_ids)
            np.testing.assert_allclose(got.scores, fresh.scores, rtol=1e-4, atol=1e-4)
        told = metrics(server, 'kind="unchanged"', 1)
    kinds = {kind: v for key, v in told.items() for kind in KINDS if f'kind="{kind}"' in key}
    assert kinds == dict.fromkeys(KINDS, 0) | {"first": 1, "appended": 2, "unchanged": 1}
    (size,) = [value for key, value in told.items() if key.startswith("stars_cache_bytes{")]
    assert size > 0
