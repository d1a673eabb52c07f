"""The request contract on the real server, over both protocols: every tensor and parameter."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from engine.errors import RequestError
from engine.serving.client import Recommendation, StarsClient
from engine.serving.server import TritonServer
from tests.shop import SUBCLASSES

USER, OTHER = "user-000", "user-001"
NEXT, GENERAL, REPEAT, POPULARITY = 0, 1, 2, 3
TIME = 1_714_600_000  # after the shop's last event
DAIRY = json.dumps({"category": {"eq": "dairy"}})
NOTHING = json.dumps({"price": {"lt": -1}})


def category(item_id: int) -> str:
    return SUBCLASSES[(item_id - 1000) // 7 % len(SUBCLASSES)][0]


def same(first: Recommendation, second: Recommendation) -> None:
    assert first.item_ids.tolist() == second.item_ids.tolist()
    assert first.source.tolist() == second.source.tolist()
    np.testing.assert_allclose(first.scores, second.scores, rtol=1e-4, atol=1e-5)
    assert first.explanation == second.explanation


def test_a_stored_user(client: StarsClient) -> None:
    answer = client.recommend(USER)
    assert len(answer.item_ids) == 10
    assert len(set(answer.item_ids.tolist())) == 10
    assert set(answer.source.tolist()) <= {NEXT, GENERAL, REPEAT}
    assert answer.explanation is None


@pytest.mark.parametrize(("strategy", "head"), [("next", NEXT), ("general", GENERAL)])
def test_one_list_is_sorted(client: StarsClient, strategy: Any, head: int) -> None:
    answer = client.recommend(USER, strategy=strategy, k=30, time=TIME)
    assert (np.diff(answer.scores) <= 0).all()
    assert set(answer.source.tolist()) == {head, REPEAT}


def test_round_robin_interleaves_both_lists_without_duplicates(client: StarsClient) -> None:
    both = client.recommend(USER, strategy="round_robin", k=20, time=TIME).item_ids.tolist()
    assert len(set(both)) == 20
    for strategy in ("next", "general"):
        alone = client.recommend(USER, strategy=strategy, k=500, time=TIME).item_ids.tolist()  # type: ignore[arg-type]
        assert both[0 if strategy == "next" else 1] in alone[:2]
    assert both[0] == client.recommend(USER, strategy="next", k=1, time=TIME).item_ids[0]


def test_a_live_sequence_needs_no_user(client: StarsClient, catalogue: list[int]) -> None:
    first = client.recommend(item_ids=catalogue[:1], time=TIME)
    second = client.recommend(item_ids=catalogue[5:9], time=TIME)
    assert len(first.item_ids) == len(second.item_ids) == 10
    assert first.item_ids.tolist() != second.item_ids.tolist()


def test_types_and_times_of_events_reach_the_model(
    client: StarsClient, catalogue: list[int]
) -> None:
    ids = catalogue[:3]
    plain = client.recommend(item_ids=ids, time=TIME)
    same(plain, client.recommend(item_ids=ids, event_types=[0, 0, 0], time=TIME))
    same(plain, client.recommend(item_ids=ids, event_times=[TIME] * 3, time=TIME))
    old = [TIME - 40 * 86_400] * 3
    earlier = client.recommend(item_ids=ids, event_times=old, time=TIME)
    assert earlier.scores.tolist() != plain.scores.tolist()


def test_events_are_appended_to_a_stored_user(client: StarsClient, catalogue: list[int]) -> None:
    stored = client.recommend(USER, time=TIME, k=50)
    both = client.recommend(USER, catalogue[-3:], time=TIME, k=50)
    alone = client.recommend(item_ids=catalogue[-3:], time=TIME, k=50)
    assert both.scores.tolist() != stored.scores.tolist()
    assert both.scores.tolist() != alone.scores.tolist()
    repeats = both.item_ids[both.source == REPEAT].tolist()
    assert set(catalogue[-3:]) <= set(repeats)


def test_events_that_are_stored_already_change_nothing(
    client: StarsClient, catalogue: list[int]
) -> None:
    stored = client.recommend(USER, time=TIME)
    same(stored, client.recommend(USER, catalogue[:2], event_times=[0, 0], time=TIME))


def test_an_unknown_user_gets_what_is_popular(client: StarsClient, catalogue: list[int]) -> None:
    answer = client.recommend("a stranger", k=5)
    assert answer.item_ids.tolist() == catalogue[:5]
    assert answer.source.tolist() == [POPULARITY] * 5
    assert (np.diff(answer.scores) <= 0).all()
    filtered = client.recommend("a stranger", k=5, filter=DAIRY)
    assert {category(item) for item in filtered.item_ids.tolist()} == {"dairy"}


def test_an_unknown_user_with_events_is_the_events(
    client: StarsClient, catalogue: list[int]
) -> None:
    ids = catalogue[:4]
    same(client.recommend(item_ids=ids, time=TIME), client.recommend("a stranger", ids, time=TIME))


def test_repeats_can_be_left_out(client: StarsClient, catalogue: list[int]) -> None:
    allowed = client.recommend(USER, k=50, time=TIME)
    bought = allowed.item_ids[allowed.source == REPEAT].tolist()
    assert bought
    excluded = client.recommend(USER, k=500, repeats="exclude", time=TIME)
    assert REPEAT not in excluded.source
    assert not set(bought) & set(excluded.item_ids.tolist())


@pytest.mark.parametrize("strategy", ["next", "general", "round_robin"])
def test_filter(client: StarsClient, strategy: Any) -> None:
    answer = client.recommend(USER, strategy=strategy, filter=DAIRY, k=10, time=TIME)
    assert len(answer.item_ids) == 10
    assert {category(item) for item in answer.item_ids.tolist()} == {"dairy"}


def test_k(client: StarsClient, catalogue: list[int]) -> None:
    for k in (1, 7, 500):
        answer = client.recommend(USER, k=k, time=TIME)
        assert len(answer.item_ids) == min(k, len(catalogue))


def test_time_moves_the_answer(client: StarsClient) -> None:
    scores = [client.recommend(USER, time=TIME + hours * 3600).scores.tolist() for hours in (0, 60)]
    assert scores[0] != scores[1]


def test_context_moves_the_answer(client: StarsClient) -> None:
    scores = [
        client.recommend(USER, context=[promotion, 10.0], time=TIME).scores.tolist()
        for promotion in (0.0, 1.0)
    ]
    assert scores[0] != scores[1]


def test_explanation_only_where_it_is_asked_for(client: StarsClient) -> None:
    assert client.recommend(USER, explain=True).explanation
    assert client.recommend("a stranger", explain=True).explanation
    assert client.recommend(USER, explain=False).explanation is None


def test_a_batch_equals_its_rows(client: StarsClient, catalogue: list[int]) -> None:
    users = [USER, None, OTHER, "a stranger", USER]
    sequences: list[Sequence[int]] = [[], catalogue[:3], catalogue[3:4], [], catalogue[:200:9]]
    times = [[], [5, 6, 7], [TIME], [], []]
    context = [[float(row), 8.0] for row in range(5)]
    batch = client.recommend_batch(
        users, sequences, None, times, context, k=12, explain=True, time=TIME
    )
    for row, answer in enumerate(batch):
        alone = client.recommend(
            users[row],
            sequences[row],
            (),
            times[row],
            context[row],
            k=12,
            explain=True,
            time=TIME,
        )
        same(answer, alone)


def test_requests_that_are_batched_together_do_not_mix(
    server: TritonServer, catalogue: list[int]
) -> None:
    """Different widths, k and options at once, a bad one in every three."""
    requests: list[dict[str, Any]] = [
        {"item_ids": catalogue[n : n + 1 + n % 7], "k": 1 + n, "time": TIME} for n in range(12)
    ]
    with StarsClient(server.grpc_url) as client:
        expected = [client.recommend(**request) for request in requests]

        def ask(turn: int) -> None:
            place = turn % len(requests)
            if turn % 3 == 2:
                with pytest.raises(RequestError, match=r"^context\[0\]: expected a number of"):
                    client.recommend(USER, context=[float("nan")])
            else:
                same(client.recommend(**requests[place]), expected[place])

        with ThreadPoolExecutor(12) as pool:
            list(pool.map(ask, range(240)))


def test_sequences_of_different_lengths_are_batched_together(
    server: TritonServer, catalogue: list[int]
) -> None:
    widths = range(1, 121)  # no two alike, so without ragged batching no two in one batch
    with (
        tritonclient.grpc.InferenceServerClient(server.grpc_url) as triton,
        StarsClient(server.grpc_url) as client,
        ThreadPoolExecutor(12) as pool,
    ):
        before = triton.get_inference_statistics("stars").model_stats[0]
        list(pool.map(lambda n: client.recommend(item_ids=(catalogue * 2)[:n]), widths))
        after = triton.get_inference_statistics("stars").model_stats[0]
    assert after.inference_count - before.inference_count == len(widths)
    assert after.execution_count - before.execution_count < len(widths)


def raw(server: TritonServer, tensors: dict[str, tuple[str, Any]], **options: Any) -> Any:
    inputs = []
    for name, (datatype, values) in tensors.items():
        inputs.append(tritonclient.grpc.InferInput(name, values.shape, datatype))
        inputs[-1].set_data_from_numpy(values)
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        return client.infer("stars", inputs, **options)


def test_outputs_are_padded_where_too_few_qualify(server: TritonServer) -> None:
    user = np.array([[USER.encode()], [b"a stranger"]], dtype=object)
    answer = raw(server, {"user_id": ("BYTES", user)}, parameters={"filter": NOTHING, "k": 4})
    assert answer.as_numpy("item_ids").tolist() == [[-1] * 4] * 2
    assert answer.as_numpy("source").tolist() == [[-1] * 4] * 2
    assert np.isneginf(answer.as_numpy("scores")).all()
    assert answer.as_numpy("explanation") is None


def test_any_tensor_may_be_left_out(server: TritonServer, catalogue: list[int]) -> None:
    user = np.array([[USER.encode()]], dtype=object)
    assert raw(server, {"user_id": ("BYTES", user)}).as_numpy("item_ids").shape == (1, 10)
    ids = np.array([catalogue[:2]])
    answer = raw(server, {"item_ids": ("INT64", ids)}, parameters={"k": 3, "explain": True})
    assert answer.as_numpy("item_ids").shape == (1, 3)
    assert answer.as_numpy("explanation").shape == (1, 1)


def test_what_triton_adds_to_requests_breaks_nothing(server: TritonServer) -> None:
    user = np.array([[USER.encode()]], dtype=object)
    answer = raw(
        server,
        {"user_id": ("BYTES", user)},
        request_id="7",
        sequence_id=3,
        sequence_start=True,
        sequence_end=True,
        priority=1,
        timeout=1_000_000,
        outputs=[tritonclient.grpc.InferRequestedOutput("scores")],
    )
    assert [output.name for output in answer.get_response().outputs] == ["scores"]


def test_json_over_http(server: TritonServer) -> None:
    body = {
        "parameters": {"k": 3, "strategy": "next", "time": TIME, "explain": True},
        "inputs": [{"name": "user_id", "shape": [1, 1], "datatype": "BYTES", "data": [USER]}],
    }
    url = f"http://{server.http_url}/v2/models/stars/infer"
    with urllib.request.urlopen(url, data=json.dumps(body).encode()) as answer:
        outputs = {output["name"]: output for output in json.load(answer)["outputs"]}
    assert outputs["item_ids"]["shape"] == [1, 3]
    assert outputs["item_ids"]["datatype"] == "INT64"
    assert set(outputs) == {"item_ids", "scores", "source", "explanation"}
    assert json.loads(outputs["explanation"]["data"][0])
