"""The real server while its users change, and while their store is away."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bundle import Bundle
from engine.data.dataset import Dataset
from engine.errors import ServerError
from engine.evaluation.protocol import Cuts
from engine.refresh.run import HERE, refresh
from engine.serving.client import Recommendation, StarsClient
from engine.serving.options import Options
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request
from engine.serving.server import MODEL_REPOSITORY, TritonServer
from engine.store.address import open_publisher
from engine.store.versions import Published, rollback

USERS = [f"user-{n:03}" for n in range(8)]
TIME = 1_714_600_000  # after the shop's last event
SECOND_BEST_S = 5.0  # far more than any answer takes, far less than for ever


@pytest.fixture(params=["folder", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    return f"{request.getfixturevalue('redis_server').url}?timeout_ms=2000"


def serve(bundle: Path, store: str, **options: Any) -> TritonServer:
    return TritonServer([MODEL_REPOSITORY], bundle, options=Options(users=store, **options))


def metrics(server: TritonServer) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{server.metrics_url}/metrics") as page:
        parts = [line.rpartition(" ") for line in page.read().decode().splitlines()]
    found = {}
    for key, _, value in parts:
        if key.startswith("stars_"):
            kind = key.partition('kind="')[2].partition('"')[0]
            found[key.partition("{")[0] + (f":{kind}" if kind else "")] = float(value)
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(0.05)


def scores(answers: list[Recommendation]) -> np.ndarray:
    return np.stack([answer.scores for answer in answers])


def test_publish_under_load_loses_no_request(
    bundle: Path, dataset: Dataset, cuts: Cuts, store: str
) -> None:
    """Every answer is wholly one version's, every row of a request the same one's."""
    data = dataset.folder
    assert data is not None
    versions = [
        refresh(bundle, data, store, until=end, address=HERE, keep=2, part_users=16).version
        for end in (cuts.test, cuts.end)
    ]
    publisher = open_publisher(store)
    with serve(bundle, store) as server, StarsClient(server.grpc_url) as client:
        expected = []
        for first, second in (versions, versions[::-1]):
            publisher.swap(publisher.published(), Published(versions=(first, second)))
            answers = client.recommend_batch(USERS, [[]] * len(USERS), time=TIME)
            expected.append(scores(answers))
        assert (np.abs(expected[0] - expected[1]).max(axis=1) > 1e-2).all()
        ended, seen = threading.Event(), set()

        def ask(place: int) -> int:
            asked = 0
            with StarsClient(server.grpc_url) as own:
                while not ended.is_set() or not asked:
                    if place % 2:
                        rows = list(range(len(USERS)))
                        got = own.recommend_batch(USERS, [[]] * len(USERS), time=TIME)
                    else:
                        rows = [(place + asked) % len(USERS)]
                        got = [own.recommend(USERS[rows[0]], time=TIME)]
                    of = [
                        v
                        for v, answers in enumerate(expected)
                        if np.allclose(scores(got), answers[rows], rtol=1e-4, atol=1e-4)
                    ]
                    assert len(of) == 1, "an answer of no version, or of two"
                    seen.add(of[0])
                    asked += 1
            return asked

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask, place) for place in range(4)]
            try:
                for turn in range(60):
                    order = versions[:: -1 if turn % 2 else 1]
                    publisher.swap(publisher.published(), Published(versions=tuple(order)))
                    time.sleep(0.02)
                # And as it is done every day, with versions that come and go.
                for _ in range(3):
                    rollback(publisher)
                    again = refresh(
                        bundle, data, store, until=cuts.end, address=HERE, keep=2, part_users=16
                    )
                    assert publisher.published().versions == (again.version, versions[0])
            finally:
                ended.set()
            counts = [future.result() for future in asking]
        assert min(counts) > 10
        assert seen == {0, 1}


def test_what_is_served_is_told(bundle: Path, dataset: Dataset, cuts: Cuts, store: str) -> None:
    assert dataset.folder is not None
    made = refresh(bundle, dataset.folder, store, until=cuts.test, address=HERE).version
    with serve(bundle, store) as server, StarsClient(server.grpc_url) as client:
        client.recommend(USERS[0])
        until(lambda: metrics(server).get("stars_users") == made.users)
        told = metrics(server)
        assert told["stars_users_published_seconds"] == made.published
        assert 0 <= told["stars_users_age_seconds"] < 120
        assert abs(told["stars_vectors_age_seconds"] - (time.time() - cuts.test)) < 5
        assert told["stars_store_errors_total:down"] == 0


@pytest.fixture
def filled(bundle: Path, dataset: Dataset, redis_server: Any) -> Iterator[Any]:
    assert dataset.folder is not None
    refresh(bundle, dataset.folder, redis_server.url, address=HERE)
    yield redis_server
    redis_server.resume()


def timed(ask: Callable[[], Any]) -> Any:
    began = time.monotonic()
    try:
        return ask()
    finally:
        assert time.monotonic() - began < SECOND_BEST_S


def test_store_down_never_hangs(bundle: Path, filled: Any) -> None:
    """Killed, or connected and silent: events are answered, without events the store is named."""
    items = Bundle.open(bundle).items["item_ids"][:3].tolist()
    with serve(bundle, filled.url) as server, StarsClient(server.grpc_url) as client:
        stored = client.recommend(USERS[0], time=TIME)
        alone = client.recommend(item_ids=items, time=TIME)
        assert client.recommend(USERS[0], items, time=TIME).scores.tolist() != alone.scores.tolist()

        def away() -> None:
            name = filled.url.partition("?")[0]
            for _ in range(3):
                with pytest.raises(ServerError, match=f"users {name}: expected an answer within"):
                    timed(lambda: client.recommend(USERS[0], time=TIME))
                got = timed(lambda: client.recommend(USERS[0], items, time=TIME))
                np.testing.assert_allclose(got.scores, alone.scores, rtol=1e-4, atol=1e-4)
            with pytest.raises(ServerError, match=f"row 1: users {name}: expected an answer"):
                client.recommend_batch([None, USERS[1]], [items, []], time=TIME)

            def one(turn: int) -> bool:
                try:
                    with StarsClient(server.grpc_url) as own:
                        own.recommend(USERS[turn % 8], items if turn % 2 else [], time=TIME)
                except ServerError:
                    return False
                return True

            with ThreadPoolExecutor(8) as pool:
                answered = timed(lambda: list(pool.map(one, range(64))))
            assert answered == [turn % 2 == 1 for turn in range(64)]

        def back() -> bool:
            try:
                again = client.recommend(USERS[0], time=TIME)
            except ServerError:
                return False
            np.testing.assert_allclose(again.scores, stored.scores, rtol=1e-4, atol=1e-4)
            return True

        filled.pause()
        away()
        filled.resume()
        until(back)
        filled.kill()
        away()
        filled.start()  # and empty
        until(lambda: "expected a published version, got none" in said(client))
        until(lambda: metrics(server)["stars_store_errors_total:down"] > 0)


def said(client: StarsClient) -> str:
    with pytest.raises(ServerError) as error:
        client.recommend(USERS[0], time=TIME)
    return str(error.value)


def test_popularity_while_the_store_is_down(bundle: Path, filled: Any) -> None:
    options = Options(users=filled.url, store_down="popularity")
    with (
        TritonServer([MODEL_REPOSITORY], bundle, options=options) as server,
        StarsClient(server.grpc_url) as client,
    ):
        popular = client.recommend("a stranger", time=TIME)
        stored = client.recommend(USERS[0], time=TIME)
        assert stored.item_ids.tolist() != popular.item_ids.tolist()
        filled.pause()
        got = timed(lambda: client.recommend(USERS[0], time=TIME))
        assert got.item_ids.tolist() == popular.item_ids.tolist()
        assert set(got.source.tolist()) == {3}


def test_a_server_starts_while_the_store_is_down(bundle: Path, filled: Any) -> None:
    filled.pause()
    with serve(bundle, filled.url) as server, StarsClient(server.grpc_url) as client:
        assert "expected an answer within 100 ms" in said(client)
        filled.resume()
        time.sleep(1.1)
        assert len(client.recommend(USERS[0]).item_ids) == 10


def test_a_store_of_another_model_is_refused_at_the_start(
    bundle: Path, dataset: Dataset, tmp_path: Path
) -> None:
    assert dataset.folder is not None
    made = refresh(bundle, dataset.folder, str(tmp_path), address=HERE).version
    publisher = open_publisher(str(tmp_path))
    other = made.model_copy(update={"model": "f" * 64})
    publisher.swap(publisher.published(), Published(versions=(other,)))
    with pytest.raises(ServerError, match=r"StoreError: users .*expected users of the model fffff"):
        serve(bundle, str(tmp_path)).start()


def test_an_item_that_the_catalogue_lacks_spoils_no_batch(
    bundle: Path, dataset: Dataset, tmp_path: Path
) -> None:
    """The changes that a refresh saw may be gone when a server starts."""
    assert dataset.folder is not None
    refresh(bundle, dataset.folder, str(tmp_path), address=HERE)
    recommender = Recommender.load(bundle, Options(users=str(tmp_path)))
    get_many = recommender.users.get_many

    def damaged(user_ids: list[str]) -> list[Any]:
        first, *others = get_many(user_ids)
        assert first is not None
        return [replace(first, items=first.items + 10**6), *others]

    recommender.users.get_many = damaged  # type: ignore[method-assign, assignment]
    none = np.zeros(0, np.int64)
    options = (None, None, None, 10, "next", "allow", None, TIME, False)
    first, second = recommender.recommend([Request(user, none, *options) for user in USERS[:2]])
    assert isinstance(first, Reply)
    assert isinstance(second, Reply)
    assert set(first.source.tolist()) == {3}
    assert 3 not in second.source
    assert recommender.users.errors["record"] == 1
