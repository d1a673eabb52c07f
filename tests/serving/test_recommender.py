"""The request path in process: explanations add up, and live events are counted as stored ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bundle import Bundle
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request

USER, TIME = "user-003", 1_714_000_000


@pytest.fixture(scope="module")
def recommender(bundle: Path) -> Recommender:
    return Recommender.load(bundle)


def ask(recommender: Recommender, **changes: Any) -> Reply:
    fields: dict[str, Any] = {
        "user_id": USER,
        "item_ids": np.zeros(0, np.int64),
        "event_types": None,
        "event_times": None,
        "context": None,
        "k": 20,
        "strategy": "round_robin",
        "repeats": "allow",
        "filter": None,
        "time": TIME,
        "explain": False,
    }
    (reply,) = recommender.recommend([Request(**fields | changes)])
    assert isinstance(reply, Reply), reply
    return reply


def total(entry: dict[str, Any]) -> float:
    terms = entry["terms"]
    dot = terms["scale"] * (terms["dot"] + terms["context"])
    return float(dot + terms["prior"] + terms["repeat"] + terms["discovery"])


@pytest.mark.parametrize("strategy", ["next", "general", "round_robin"])
@pytest.mark.parametrize("with_repeats", [True, False])
def test_the_terms_of_an_explanation_are_the_score(
    bundle: Path, strategy: str, with_repeats: bool
) -> None:
    opened = Bundle.open(bundle)
    opened.manifest.model["repeats"] = with_repeats
    reply = ask(Recommender(opened), strategy=strategy, explain=True)
    assert reply.explanation is not None
    entries = json.loads(reply.explanation)["items"]
    assert [entry["item_id"] for entry in entries] == reply.item_ids.tolist()
    assert {entry["source"] for entry in entries} - {"repeat"}
    assert any(entry["source"] == "repeat" for entry in entries) == with_repeats
    np.testing.assert_allclose([total(entry) for entry in entries], reply.scores, atol=1e-4)
    for entry in entries:
        cosines = [near["cosine"] for near in entry["nearest"]]
        assert cosines == sorted(cosines, reverse=True)
        assert entry["item_id"] not in [near["item_id"] for near in entry["nearest"]]


def test_an_explanation_tells_vectors_and_signals(recommender: Recommender) -> None:
    reply = ask(recommender, item_ids=recommender.catalogue.item_ids[:2], explain=True)
    told = json.loads(reply.explanation or "")
    assert (told["user"], told["vectors"]) == ("known", "live")
    assert list(told["context"]["signals"]) == [
        feature.name for feature in recommender.bundle.manifest.signals
    ]


def test_an_event_counts_once_a_session(recommender: Recommender) -> None:
    item = recommender.catalogue.item_ids[5]
    once = ask(recommender, item_ids=np.array([item]))
    often = ask(recommender, item_ids=np.array([item] * 4))
    assert once.item_ids.tolist() == often.item_ids.tolist()
    assert once.scores.tolist() == often.scores.tolist()
    twice = ask(
        recommender,
        item_ids=np.array([item, item]),
        event_times=np.array([TIME - 3 * 86_400, TIME]),
    )
    assert twice.scores.tolist() != once.scores.tolist()


def test_a_bad_request_hurts_no_other(recommender: Recommender) -> None:
    good = Request(
        USER, np.zeros(0, np.int64), None, None, None, 5, "next", "allow", None, TIME, False
    )
    bad = Request(USER, np.array([1]), None, None, None, 5, "next", "allow", None, TIME, False)
    first, error, last = recommender.recommend([good, bad, good])
    assert isinstance(first, Reply)
    assert isinstance(last, Reply)
    assert str(error) == "item_ids[0]: expected an id of the catalogue, got 1"
    assert first.scores.tolist() == last.scores.tolist()


def test_a_removed_item_is_history_but_no_answer(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    active = opened.items["active"].copy()
    active[:3] = False
    without = Recommender(replace(opened, items={**opened.items, "active": active}))
    gone = opened.items["item_ids"][:3]
    reply = ask(without, user_id=None, item_ids=gone, k=200)
    assert not np.isin(gone, reply.item_ids).any()
    assert (reply.source >= 0).sum() == active.sum()
    before = ask(Recommender(opened), user_id=None, item_ids=gone, k=200)
    assert np.isin(gone, before.item_ids).all()


def test_a_warm_up_changes_no_answer_and_is_not_counted(bundle: Path) -> None:
    warm, cold = Recommender.load(bundle), Recommender.load(bundle)
    warm.warm_up()
    assert (sum(warm.live.counts.values()), warm.drift.n, warm.recall.searches) == (0, 0, 0)
    item = int(warm.bundle.items["item_ids"][0])
    for changes in ({}, {"item_ids": np.array([item]), "user_id": None}):
        reply, expected = ask(warm, **changes), ask(cold, **changes)
        np.testing.assert_array_equal(reply.item_ids, expected.item_ids)
        np.testing.assert_array_equal(reply.scores, expected.scores)
