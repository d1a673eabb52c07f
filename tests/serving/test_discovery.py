"""Requests that exclude repeats: the weights decide the order, and nothing else changes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.bundle import Bundle
from engine.promotions import Promotions
from engine.serving.discovery import CANDIDATES, FEATURES
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request

from .test_recommender import TIME, USER, ask, total

DAY = TIME // 86_400
WEIGHTS = np.array([0.5, 0.3, -0.2, 0.7, 0.4, 0.6, 0.8, 3.0], np.float32)  # one kind of promotion


def with_weights(folder: Path, weights: np.ndarray = WEIGHTS) -> Recommender:
    """The bundle with the same weights for both vectors; item 7 is promoted around `TIME`."""
    opened = Bundle.open(folder)
    offsets = (np.arange(len(opened.items["item_ids"]) + 1) > 7).astype(np.int64)
    first, last = (np.array([DAY + shift], np.int32) for shift in (-5, 5))
    promotions = Promotions(offsets, first, last, np.array([[0.25]], np.float32))
    arrays = {**opened.request_weights, "discovery": np.stack([weights, weights])}
    return Recommender(replace(opened, request_weights=arrays, promotions=promotions))


def expected(recommender: Recommender, head: int) -> dict[int, float]:
    """item -> score of every active item that the user never bought, each term as its name says."""
    record = recommender.users.get_many([USER])[0]
    assert record is not None
    request = Request(
        USER, np.zeros(0, np.int64), None, None, None, 1, "next", "exclude", None, TIME, False
    )
    ((query, _),) = recommender.candidates([request], 1)
    catalogue, state = recommender.catalogue, record.repeats
    kinds = catalogue.statistics.subclass
    found = {}
    for item in np.flatnonzero(catalogue.active):
        if item in state.item:
            continue
        alike = np.flatnonzero(kinds[state.item] == kinds[item])
        faded = sum(
            state.decayed[i, 1] * 0.5 ** ((TIME - state.last_time[i]) / 86_400 / 45) for i in alike
        )
        bought = state.count[alike].sum()
        x = [
            query.vectors[head] @ catalogue.candidates[item], *catalogue.sold[item],
            catalogue.log_p[item], np.log1p(bought), np.log1p(faded), float(bought > 0),
        ]  # fmt: skip
        x.append(np.sqrt(0.25) if item == 7 else 0.0)
        found[int(item)] = float(np.dot(WEIGHTS, x) + recommender.bias[item])
    assert len(found) < CANDIDATES
    return found


@pytest.mark.parametrize(("strategy", "head"), [("next", 0), ("general", 1)])
def test_the_order_is_that_of_the_weighted_sum(bundle: Path, strategy: str, head: int) -> None:
    recommender = with_weights(bundle)
    scores = expected(recommender, head)
    best = sorted(scores, key=lambda item: (-scores[item], item))[:10]
    reply = ask(recommender, strategy=strategy, repeats="exclude", k=10)
    assert reply.item_ids.tolist() == recommender.catalogue.item_ids[best].tolist()
    np.testing.assert_allclose(reply.scores, [scores[item] for item in best], atol=1e-4)


def test_what_has_repeats_is_not_scored_again(bundle: Path) -> None:
    vectors_alone = np.eye(len(WEIGHTS), dtype=np.float32)[0]
    plain, weighted = with_weights(bundle, vectors_alone), with_weights(bundle)
    assert not plain.weights.discovers
    assert weighted.weights.discovers
    for changes in (
        {},
        {"strategy": "next"},
        {"user_id": None, "item_ids": plain.catalogue.item_ids[:3]},
    ):
        ours, theirs = ask(weighted, **changes), ask(plain, **changes)
        assert ours.item_ids.tolist() == theirs.item_ids.tolist()
        assert ours.scores.tolist() == theirs.scores.tolist()
    ours, theirs = (ask(r, repeats="exclude") for r in (weighted, plain))
    assert ours.item_ids.tolist() != theirs.item_ids.tolist()


def test_a_batch_of_both_kinds_answers_each_as_alone(bundle: Path) -> None:
    recommender = with_weights(bundle)
    requests = [
        Request(
            USER, np.zeros(0, np.int64), None, None, None, 5, strategy, repeats, None, TIME, False
        )
        for strategy in ("next", "round_robin")
        for repeats in ("exclude", "allow", "exclude")
    ]  # fmt: skip
    together = recommender.recommend(requests)
    for request, reply in zip(requests, together, strict=True):
        (alone,) = recommender.recommend([request])
        assert isinstance(reply, Reply)
        assert isinstance(alone, Reply)
        assert reply.item_ids.tolist() == alone.item_ids.tolist()
        np.testing.assert_allclose(reply.scores, alone.scores, rtol=1e-6)


def test_a_filter_and_candidates_hold(bundle: Path) -> None:
    recommender = with_weights(bundle)
    some = recommender.catalogue.item_ids[::9]
    (reply,) = recommender.recommend(
        [
            Request(
                USER, np.zeros(0, np.int64), None, None, None, 40, "next", "exclude", None, TIME,
                False, candidates=some,
            )
        ]
    )  # fmt: skip
    assert isinstance(reply, Reply)
    answered = reply.item_ids[reply.item_ids >= 0]
    assert 0 < len(answered) < 40
    assert np.isin(answered, some).all()
    assert (reply.scores[reply.item_ids < 0] == -np.inf).all()
    record = recommender.users.get_many([USER])[0]
    assert record is not None
    assert not np.isin(answered, recommender.catalogue.item_ids[record.repeats.item]).any()


def test_the_terms_of_an_explanation_are_the_score(bundle: Path) -> None:
    reply = ask(with_weights(bundle), repeats="exclude", explain=True)
    entries = json.loads(reply.explanation or "")["items"]
    np.testing.assert_allclose([total(entry) for entry in entries], reply.scores, atol=1e-4)
    assert {entry["terms"]["scale"] for entry in entries} == {0.5}
    assert all(entry["terms"]["discovery"] for entry in entries)


def test_features_are_named() -> None:
    assert len(WEIGHTS) == len(FEATURES) + 1


def test_where_there_is_no_time_the_time_of_a_request_changes_nothing(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    arrays = {**opened.request_weights, "discovery": np.stack([WEIGHTS, WEIGHTS])}
    manifest = opened.manifest.model_copy(update={"has_time": False})
    recommender = Recommender(replace(opened, request_weights=arrays, manifest=manifest))
    one, other = (ask(recommender, repeats="exclude", time=time) for time in (TIME, TIME + 10**7))
    assert one.item_ids.tolist() == other.item_ids.tolist()
    assert one.scores.tolist() == other.scores.tolist()
