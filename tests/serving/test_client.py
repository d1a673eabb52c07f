"""What the client itself refuses, and how it reports a server that does not answer."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from engine.errors import RequestError, ServerError
from engine.serving.client import StarsClient
from engine.serving.server import TritonServer


def test_protocol() -> None:
    with pytest.raises(ValueError, match="protocol: expected grpc or http, got 'smtp'"):
        StarsClient("127.0.0.1:1", "smtp")  # type: ignore[arg-type]


def test_numbers_of_rows(client: StarsClient) -> None:
    for given in ({}, {"user_ids": []}, {"user_ids": ["a", "b"], "item_ids": [[1]]}):
        with pytest.raises(ValueError, match="rows: expected the same number, at least 1, in each"):
            client.recommend_batch(**given)


def test_ids_that_are_no_integers(client: StarsClient) -> None:
    with pytest.raises(TypeError, match=r"Cannot cast array data from .*float64.* to .*int64"):
        client.recommend(item_ids=[1.5])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_server(protocol: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{unused.getsockname()[1]}"
        with (
            StarsClient(url, protocol, timeout_s=5) as client,  # type: ignore[arg-type]
            pytest.raises(ServerError, match=url),
        ):
            client.recommend("u")


def test_no_such_model(server: TritonServer) -> None:
    with StarsClient(server.grpc_url, model="sars") as client, pytest.raises(ServerError) as failed:
        client.recommend("u")
    assert "Request for unknown model: 'sars' is not found" in str(failed.value)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_server_does_not_answer_in_time(protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        with (
            StarsClient(url, protocol, timeout_s=0.2) as client,  # type: ignore[arg-type]
            pytest.raises(ServerError, match=rf"{url}: .*(Deadline Exceeded|timed out)"),
        ):
            client.recommend("u")


def test_a_refusal_is_the_servers_words(client: StarsClient) -> None:
    with pytest.raises(RequestError, match=r"^k: expected an integer from 1 to 500, got 501$"):
        client.recommend("u", k=501)


def test_numpy_lists_and_tuples_are_alike(client: StarsClient, catalogue: list[int]) -> None:
    ids = catalogue[:3]
    for given in (ids, tuple(ids), np.array(ids), np.array(ids, np.int32)):
        answer = client.recommend(item_ids=given, event_types=np.zeros(3, int), time=1_700_000_000)
        assert answer.item_ids.dtype == np.int64
        assert answer.scores.dtype == np.float32
        assert answer.source.dtype == np.int32
