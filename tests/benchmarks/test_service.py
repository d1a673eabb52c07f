"""The FastAPI service is the same recommender: its answers are the engine's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cases.server import assert_same, in_process
from benchmarks.load_inputs import Scenario, live, stored
from benchmarks.service import JsonClient, Question, Service, TorchRecommender
from engine.bundle import Bundle
from engine.errors import ServerError
from engine.model.stars import Stars

EVENTS = 10


@pytest.fixture(scope="module")
def opened(bundle: Path) -> Bundle:
    return Bundle.open(bundle)


@pytest.fixture(scope="module")
def torch_recommender(opened: Bundle, trained: Stars) -> TorchRecommender:
    return TorchRecommender(opened, trained)


@pytest.mark.parametrize("make", [stored, lambda bundle: live(bundle, EVENTS)])
def test_it_answers_what_the_engine_answers(
    torch_recommender: TorchRecommender, opened: Bundle, make
) -> None:
    scenario = make(opened)
    truth = in_process(opened, scenario, runtime="onnxruntime-fp32")
    for ask, wanted in zip(scenario.asks, truth, strict=False):
        got = torch_recommender.recommend(Question(**ask, **scenario.parameters))
        assert_same(
            str(ask),
            (np.array(got.item_ids), np.array(got.scores)),
            (wanted.item_ids, wanted.scores),
        )
        assert got.source == wanted.source.tolist()


def test_an_unknown_user_is_answered_by_popularity(
    torch_recommender: TorchRecommender, opened: Bundle
) -> None:
    parameters = stored(opened).parameters
    nobody = Scenario("nobody", ({"user_id": "nobody has this name"},), parameters)
    wanted = in_process(opened, nobody)[0]
    got = torch_recommender.recommend(Question(user_id="nobody has this name", **parameters))
    assert (got.item_ids, got.source) == (wanted.item_ids.tolist(), wanted.source.tolist())


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[JsonClient]:
    with Service(bundle) as service, closing(JsonClient(service.url)) as connected:
        yield connected


def test_it_answers_over_http(client: JsonClient, opened: Bundle) -> None:
    scenario = stored(opened)
    scenario = replace(scenario, asks=scenario.asks[:5])
    for ask, wanted in zip(scenario.asks, in_process(opened, scenario), strict=True):
        assert client.recommend(**ask, **scenario.parameters).item_ids == wanted.item_ids.tolist()


def test_it_refuses_what_it_cannot_answer(client: JsonClient, opened: Bundle) -> None:
    parameters = stored(opened).parameters
    with pytest.raises(ServerError, match=r"got 422: .*user_id"):
        client.recommend(user_id=5, **parameters)
    events = live(opened, EVENTS).asks[0]
    with pytest.raises(ServerError, match=r"got 422: .*expected a service with the trained model"):
        client.recommend(**events, **parameters)


def test_an_item_that_is_none_is_named(torch_recommender: TorchRecommender) -> None:
    question = Question(item_ids=[5], event_types=[0], event_times=[0], time=0)
    with pytest.raises(KeyError, match="item_ids: expected ids of the catalogue"):
        torch_recommender.recommend(question)


def test_a_service_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"manifest\.json"), Service(tmp_path):
        pass
