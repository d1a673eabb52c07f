"""The funnel on the real server, over both protocols."""

from __future__ import annotations

import numpy as np
import pytest
import tritonclient.grpc

from engine.errors import RequestError
from engine.serving.client import StarsClient
from engine.serving.server import TritonServer

USER, TIME = "user-000", 1_714_600_000


def test_a_ranking_and_a_page(client: StarsClient) -> None:
    retrieved = client.recommend(USER, k=40, time=TIME)
    ranked = client.recommend(USER, k=40, time=TIME, stage="rank", objective_scores=True)
    assert sorted(ranked.item_ids) == sorted(retrieved.item_ids)
    assert (np.diff(ranked.scores) <= 0).all()
    assert ranked.objective_scores is not None
    assert ranked.objective_scores.shape == (40, 4)
    assert retrieved.objective_scores is None
    plain, different = (
        client.recommend(USER, time=TIME, stage="page", diversity=d).item_ids.tolist()
        for d in (0.0, 0.95)
    )
    assert plain == ranked.item_ids[:10].tolist()
    assert different[0] == plain[0]
    assert different != plain


def test_a_list_of_ones_own(client: StarsClient, catalogue: list[int]) -> None:
    mine = catalogue[5:25:3]
    answer = client.recommend(USER, candidates=mine, time=TIME, stage="rank")
    assert sorted(answer.item_ids) == sorted(mine)
    rows = client.recommend_batch(
        [USER, USER], candidates=[mine, mine[:2]], time=TIME, stage="page", k=3
    )
    assert [len(row.item_ids) for row in rows] == [3, 2]


def test_refusals(client: StarsClient) -> None:
    with pytest.raises(RequestError, match="diversity: expected stage page, got stage 'rank'"):
        client.recommend(USER, stage="rank", diversity=0.2)
    with pytest.raises(
        RequestError, match=r"candidates\[0\]: expected an id of the catalogue, got 7"
    ):
        client.recommend(USER, candidates=[7], stage="rank")


def test_an_explanation_of_a_page(client: StarsClient) -> None:
    answer = client.recommend(USER, time=TIME, stage="page", explain=True)
    assert answer.explanation is not None
    assert [e["item_id"] for e in answer.explanation["items"]] == answer.item_ids.tolist()
    objectives = ["purchase", "promoted", "coupon", "repeat"]
    assert list(answer.explanation["items"][0]["objectives"]) == objectives


def test_a_plain_client_sends_diversity_as_text(server: TritonServer) -> None:
    client = tritonclient.grpc.InferenceServerClient(server.grpc_url)
    user = tritonclient.grpc.InferInput("user_id", [1, 1], "BYTES")
    user.set_data_from_numpy(np.array([[USER.encode()]], dtype=object))
    found = [
        client.infer("stars", [user], parameters={"stage": "page", "diversity": d, "time": TIME})
        for d in ("0", "0.95")
    ]
    first, second = (answer.as_numpy("item_ids").tolist() for answer in found)
    assert first != second
