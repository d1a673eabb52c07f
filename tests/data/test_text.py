# ruff: noqa: E501
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.hashed_words import HashedWords
from engine.data.endpoint import Endpoint
from engine.data.prepare import prepare
from engine.data.text import CachedEmbedder, EndpointEmbedder, MiniLmEmbedder
from engine.errors import DataError, EndpointError
from tests.data.endpoint import Answer, serve
from tests.shop import write_shop


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"a connection was tried: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("offline")
def test_mini_lm_reads_its_package_and_no_network() -> None:
    texts = ["wheat bread", "motor oil for trucks", "a loaf of bread", "wheat bread"]
    rows = MiniLmEmbedder().embed(texts)
    assert (rows.shape, rows.dtype) == ((4, 384), np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(rows[0], rows[3], atol=1e-5)
    assert rows[0] @ rows[2] > 0.7 > 0.4 > rows[0] @ rows[1]


class Counting:
    """Remembers the texts that it was asked for."""

    def __init__(self, name: str = "words", width: int = 8, fail_after: int = 10**9) -> None:
        self.name, self._fail_after = name, fail_after
        self.asked: list[str] = []
        self._words = HashedWords(width)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if len(self.asked) + len(texts) > self._fail_after:
            raise KeyboardInterrupt
        self.asked += texts
        return self._words.embed(texts)


def test_only_new_texts_are_embedded(tmp_path: Path) -> None:
    counting = Counting()
    first = CachedEmbedder(counting, tmp_path).embed(["a b", "c", "a b"])
    assert sorted(counting.asked) == ["a b", "c"]
    np.testing.assert_array_equal(first, HashedWords(8).embed(["a b", "c", "a b"]))

    second = CachedEmbedder(counting, tmp_path).embed(["d", "c"])
    assert sorted(counting.asked) == ["a b", "c", "d"]
    np.testing.assert_array_equal(second, HashedWords(8).embed(["d", "c"]))


def test_models_do_not_share_vectors(tmp_path: Path) -> None:
    one, other = Counting("one"), Counting("other", width=4)
    assert CachedEmbedder(one, tmp_path).embed(["a"]).shape == (1, 8)
    assert CachedEmbedder(other, tmp_path).embed(["a"]).shape == (1, 4)
    assert CachedEmbedder(one, tmp_path).name == "one"


def test_an_interruption_loses_at_most_a_shard(tmp_path: Path) -> None:
    texts = [f"{n:05}" for n in range(3000)]
    with pytest.raises(KeyboardInterrupt):
        CachedEmbedder(Counting(fail_after=2500), tmp_path).embed(texts)
    counting = Counting()
    rows = CachedEmbedder(counting, tmp_path).embed(texts)
    assert len(counting.asked) == 3000 - 2048
    np.testing.assert_array_equal(rows, HashedWords(8).embed(texts))


def test_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    CachedEmbedder(Counting(), tmp_path).embed(["a"])
    (shard,) = tmp_path.rglob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(DataError, match="unreadable, remove it"):
        CachedEmbedder(Counting(), tmp_path).embed(["a"])


def test_a_model_that_changed_its_width_is_refused(tmp_path: Path) -> None:
    CachedEmbedder(Counting(width=8), tmp_path).embed(["a"])
    with pytest.raises(DataError, match="expected vectors of one width; remove the folder"):
        CachedEmbedder(Counting(width=4), tmp_path).embed(["a", "b"])


class Wrong:
    name = "wrong"

    def __init__(self, rows: NDArray[Any]) -> None:
        self.rows = rows

    def embed(self, texts: Sequence[str]) -> NDArray[Any]:
        return self.rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((1, 1), np.float64), r"expected \[1, d\] float32, got \[1, 1\] float64"),
        (np.ones((2, 1), np.float32), r"expected \[1, d\] float32, got \[2, 1\] float32"),
        (np.ones(1, np.float32), r"expected \[1, d\] float32, got \[1\] float32"),
        (np.ones((1, 2), np.float32), "expected rows of unit length, got 1.41"),
        (np.full((1, 2), np.nan, np.float32), "expected rows of unit length, got nan"),
    ],
)
def test_a_broken_embedder_is_refused(tmp_path: Path, rows: NDArray[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        CachedEmbedder(Wrong(rows), tmp_path).embed(["a"])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_preparation_checks_its_embedder(tmp_path: Path) -> None:
    source = write_shop(tmp_path / "s", users=2, items=18, days=15)
    with pytest.raises(DataError, match=r"embedder wrong: expected \["):
        prepare(source, tmp_path / "out", embedder=Wrong(np.ones((1, 1), np.float32)))


def vectors(body: dict[str, Any]) -> dict[str, Any]:
    """The right answer, in reverse order and not of unit length."""
    rows = [
        {"object": "embedding", "index": n, "embedding": [3.0 * len(text), 4.0 * len(text)]}
        for n, text in enumerate(body["input"])
    ]
    return {"object": "list", "data": rows[::-1], "model": body["model"]}


def ask(answer: Answer, texts: Sequence[str] = ("a", "bb")) -> NDArray[np.float32]:
    with serve(answer) as server:
        endpoint = Endpoint(server.base_url, "key", retries=1)
        return EndpointEmbedder(endpoint, "model-x", batch=2).embed(list(texts))


def test_an_endpoint_is_asked_in_batches() -> None:
    with serve(lambda body: (200, vectors(body))) as server:
        embedder = EndpointEmbedder(Endpoint(server.base_url, "key"), "model-x", batch=2)
        rows = embedder.embed(["a", "bb", "ccc"])
    np.testing.assert_allclose(rows, [[0.6, 0.8]] * 3, rtol=1e-6)
    assert rows.dtype == np.float32
    assert [(path, body["input"]) for path, body in server.requests] == [
        ("/v1/embeddings", ["a", "bb"]),
        ("/v1/embeddings", ["ccc"]),
    ]
    assert server.requests[0][1]["model"] == "model-x"
    assert embedder.name == f"model-x@{server.base_url}"


def test_no_texts_ask_nothing() -> None:
    assert ask(lambda body: (500, {}), []).shape == (0, 0)


def test_a_failure_is_tried_again() -> None:
    answers = iter([(500, {"error": "busy"})])
    rows = ask(lambda body: next(answers, None) or (200, vectors(body)))
    assert len(rows) == 2


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (401, {"error": {"message": "bad key"}}, r"/v1/embeddings: expected 200, got 401: .*bad key"),
        (500, {"error": "busy"}, r"/v1/embeddings: expected 200, got 500: .*busy"),
        (200, b"<html>hello", r"expected EmbeddingsReply as JSON, got '<html>hello': Invalid JSON"),
        (200, {"data": None}, r"expected EmbeddingsReply as JSON, got .*: Input should be a valid array"),
        (200, {"data": []}, r"expected embeddings 0 to 1, got \[\]"),
        (200, {"data": [{"index": 0, "embedding": [1.0]}] * 2}, r"got \[0, 0\]"),
        (200, {"data": [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 0.0]}]}, r"expected vectors of one width, got \[1, 2\]"),
        (200, {"data": [{"index": n, "embedding": [0.0]} for n in range(2)]}, "expected finite vectors other than 0"),
        (200, {"data": [{"index": n, "embedding": [1e999]} for n in range(2)]}, "expected finite vectors other than 0"),
    ],
)  # fmt: skip
def test_an_answer_outside_the_protocol_is_refused(status: int, answer: Any, message: str) -> None:
    with pytest.raises(EndpointError, match=message):
        ask(lambda body: (status, answer))


def test_a_server_that_is_not_there_is_named() -> None:
    with serve(lambda body: (200, {})) as server:
        pass
    endpoint = Endpoint(server.base_url, "key", retries=0)
    with pytest.raises(EndpointError, match=r"http://127.0.0.1:\d+/v1/embeddings: no answer"):
        EndpointEmbedder(endpoint, "m").embed(["a"])
