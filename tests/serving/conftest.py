"""One real server for all serving tests, with the model and its null beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.serving.client import StarsClient
from engine.serving.latency import NULL_REPOSITORY
from engine.serving.server import MODEL_REPOSITORY, TritonServer
from tests.store.conftest import redis_server

__all__ = ["redis_server"]


@pytest.fixture(scope="session")
def server(bundle: Path) -> Iterator[TritonServer]:
    with TritonServer([MODEL_REPOSITORY, NULL_REPOSITORY], bundle) as running:
        yield running


@pytest.fixture(scope="session", params=["grpc", "http"])
def client(request: pytest.FixtureRequest, server: TritonServer) -> Iterator[StarsClient]:
    url = server.grpc_url if request.param == "grpc" else server.http_url
    with StarsClient(url, request.param) as connected:
        yield connected


@pytest.fixture(scope="session")
def catalogue(server: TritonServer) -> list[int]:
    """Ids that may be answered, most popular first."""
    with StarsClient(server.grpc_url) as connected:
        return connected.recommend("nobody has this name", k=500).item_ids.tolist()
