"""Ranking, fusing and pages behind retrieval, in process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.bundle import Bundle
from engine.errors import BundleError, RequestError
from engine.ranking.auc import request_ranks
from engine.ranking.shop.sidecar import SIDECAR_FILE
from engine.serving.funnel import TIMED, Funnel, places_in
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request

USER, TIME, CANDIDATES = "user-003", 1_714_600_000, 40


@pytest.fixture(scope="module")
def recommender(bundle: Path) -> Recommender:
    return Recommender.load(bundle)


def request(**changes: Any) -> Request:
    fields: dict[str, Any] = {
        "user_id": USER, "item_ids": np.zeros(0, np.int64), "event_types": None,
        "event_times": None, "context": None, "k": 10, "strategy": "round_robin",
        "repeats": "allow", "filter": None, "time": TIME, "explain": False,
    }  # fmt: skip
    return Request(**fields | changes)


def ask(recommender: Recommender, **changes: Any) -> Reply:
    (reply,) = recommender.recommend([request(**changes)])
    assert isinstance(reply, Reply), reply
    return reply


def test_ranking_reorders_what_was_retrieved(recommender: Recommender) -> None:
    retrieved = ask(recommender, k=CANDIDATES)
    ranked = ask(recommender, k=CANDIDATES, stage="rank")
    assert sorted(ranked.item_ids) == sorted(retrieved.item_ids)
    assert ranked.item_ids.tolist() != retrieved.item_ids.tolist()
    assert (np.diff(ranked.scores) <= 0).all()
    source = dict(zip(retrieved.item_ids, retrieved.source, strict=True))
    assert [source[item] for item in ranked.item_ids] == ranked.source.tolist()


def test_fewer_are_the_first_of_more(recommender: Recommender) -> None:
    few, many = (ask(recommender, k=k, stage="rank") for k in (7, 30))
    assert few.item_ids.tolist() == many.item_ids[:7].tolist()
    few, many = (ask(recommender, k=k, stage="page", diversity=0.5) for k in (7, 30))
    assert few.item_ids.tolist() == many.item_ids[:7].tolist()


def test_more_than_the_candidates_are_retrieved_for_it(recommender: Recommender) -> None:
    assert (ask(recommender, k=CANDIDATES + 20, stage="rank").item_ids >= 0).all()


def test_a_page_without_diversity_is_the_ranking(recommender: Recommender) -> None:
    ranked, page = (
        ask(recommender, stage="rank"), ask(recommender, stage="page", diversity=0.0)
    )  # fmt: skip
    assert page.item_ids.tolist() == ranked.item_ids.tolist()
    np.testing.assert_array_equal(page.scores, ranked.scores)


def test_diversity_buys_difference_with_score(recommender: Recommender) -> None:
    def kinds(reply: Reply) -> int:
        places = recommender.catalogue.places(reply.item_ids)
        return len(np.unique(recommender.catalogue.statistics.subclass[places]))

    users = [f"user-{n:03}" for n in range(60)]
    found = {
        diversity: [ask(recommender, user_id=u, stage="page", diversity=diversity) for u in users]
        for diversity in (0.0, 0.9)
    }
    different = {d: np.mean([kinds(reply) for reply in replies]) for d, replies in found.items()}
    score = {d: np.mean([reply.scores.mean() for reply in r]) for d, r in found.items()}
    assert different[0.9] > different[0.0] + 1
    assert score[0.9] < score[0.0]


def test_probabilities_of_each_objective(recommender: Recommender) -> None:
    assert recommender.funnel is not None
    names = recommender.funnel.objectives
    assert names == ("purchase", "promoted", "coupon", "repeat")
    reply = ask(recommender, stage="page", objective_scores=True)
    assert reply.objective_scores is not None
    assert reply.objective_scores.shape == (10, 4)
    purchase, of_purchase = reply.objective_scores[:, :1], reply.objective_scores[:, 1:]
    assert (of_purchase <= purchase + 1e-6).all()
    assert ask(recommender, stage="rank").objective_scores is None


def test_only_the_candidates_that_are_named(recommender: Recommender) -> None:
    some = recommender.catalogue.item_ids[3:40:4]
    for stage in ("retrieve", "rank", "page"):
        reply = ask(recommender, k=20, stage=stage, candidates=np.append(some, some[0]))
        found = reply.item_ids[reply.item_ids >= 0]
        active = recommender.catalogue.active[recommender.catalogue.places(some)]
        assert sorted(found) == sorted(some[active]), stage
        assert np.isneginf(reply.scores[len(found) :]).all()


def test_candidates_under_a_filter_and_without_repeats(recommender: Recommender) -> None:
    everything = recommender.catalogue.item_ids
    reply = ask(
        recommender, k=50, stage="rank", candidates=everything, repeats="exclude",
        filter=json.dumps({"category": {"eq": "dairy"}}),
    )  # fmt: skip
    record = recommender.users.get_many([USER])[0]
    assert record is not None
    bought = recommender.catalogue.item_ids[record.repeats.item]
    assert len(reply.item_ids[reply.item_ids >= 0]) > 0
    assert not np.isin(reply.item_ids, bought).any()


def test_no_candidate_that_qualifies(recommender: Recommender) -> None:
    nothing = json.dumps({"price": {"lt": -1}})
    for stage in ("rank", "page"):
        reply = ask(recommender, k=3, stage=stage, filter=nothing, objective_scores=True)
        assert reply.item_ids.tolist() == [-1, -1, -1]
        assert np.isnan(reply.objective_scores).all()


def test_an_unknown_user_is_not_ranked(recommender: Recommender) -> None:
    popular = ask(recommender, user_id="nobody")
    ranked = ask(recommender, user_id="nobody", stage="page", objective_scores=True)
    assert ranked.item_ids.tolist() == popular.item_ids.tolist()
    assert np.isnan(ranked.objective_scores).all()


def test_requests_of_several_stages_and_sizes_do_not_mix(recommender: Recommender) -> None:
    items = recommender.catalogue.item_ids
    mixed = [
        request(k=5),
        request(user_id="user-001", stage="page", k=9, diversity=0.4),
        request(user_id="user-002", stage="rank", candidates=items[:3]),
        request(user_id=None, item_ids=items[:4], stage="page", k=4, diversity=0.9),
        request(user_id="user-004", stage="rank", filter='{"price": {"lt": -1}}'),
        request(user_id="nobody", stage="rank"),
    ]
    together = recommender.recommend(mixed)
    for one, reply in zip(mixed, together, strict=True):
        (alone,) = recommender.recommend([one])
        assert isinstance(reply, Reply)
        assert isinstance(alone, Reply)
        assert reply.item_ids.tolist() == alone.item_ids.tolist()
        np.testing.assert_allclose(reply.scores, alone.scores, rtol=1e-4, atol=1e-4)


def test_the_explanation_of_a_ranked_item(recommender: Recommender) -> None:
    retrieved = ask(recommender, k=CANDIDATES)
    score = dict(zip(retrieved.item_ids.tolist(), retrieved.scores.tolist(), strict=True))
    reply = ask(recommender, stage="page", explain=True, objective_scores=True)
    for place, entry in enumerate(json.loads(reply.explanation or "")["items"]):
        terms = entry["terms"]
        total = terms["scale"] * (terms["dot"] + terms["context"]) + terms["prior"]
        assert total + terms["repeat"] == pytest.approx(score[entry["item_id"]], abs=1e-4)
        assert entry["retrieved"] == pytest.approx(score[entry["item_id"]], abs=1e-5)
        assert entry["score"] == pytest.approx(float(reply.scores[place]), abs=1e-5)
        probability = reply.objective_scores[place]
        assert list(entry["objectives"].values()) == pytest.approx(probability.tolist(), abs=1e-5)


def test_stages_are_timed(recommender: Recommender) -> None:
    funnel = recommender.funnel
    assert funnel is not None
    before = dict(funnel.requests)
    recommender.recommend([request(), request(stage="rank"), request(stage="page")])
    assert {s: funnel.requests[s] - before[s] for s in TIMED} == {
        "retrieve": 3, "rank": 2, "fuse": 2, "page": 1,
    }  # fmt: skip
    assert all(funnel.seconds[stage] > 0 for stage in TIMED)


def test_a_bundle_without_a_ranker_says_so(earlier: Path) -> None:
    recommender = Recommender.load(earlier)
    asked = [request(time=1_712_000_000), request(stage="page")]
    reply, error = recommender.recommend(asked)
    assert isinstance(reply, Reply)
    assert isinstance(error, RequestError)
    assert str(error) == (
        "stage: expected retrieve, since the bundle has no ranker (stars rank train), got 'page'"
    )


def test_an_unknown_candidate_is_named(recommender: Recommender) -> None:
    (error,) = recommender.recommend([request(candidates=np.array([1000, 5]))])
    assert isinstance(error, RequestError)
    assert str(error) == "candidates[1]: expected an id of the catalogue, got 5"


def test_a_ranker_of_other_features_is_refused(bundle: Path, recommender: Recommender) -> None:
    opened = Bundle.open(bundle)
    assert opened.ranker is not None
    sidecar = json.loads((opened.ranker / SIDECAR_FILE).read_text())
    sidecar["features"] = sidecar["features"][:-1]
    changed = bundle.parent / "changed"
    changed.mkdir()
    for file in opened.ranker.iterdir():
        (changed / file.name).write_bytes(file.read_bytes())
    (changed / SIDECAR_FILE).write_text(json.dumps(sidecar))
    with pytest.raises(BundleError, match="features: expected those of this version, got others"):
        Funnel(changed, recommender.calendar)
    (changed / SIDECAR_FILE).write_text("{}")
    with pytest.raises(BundleError, match=r"ranking\.json"):
        Funnel(changed, recommender.calendar)


def test_places_are_ranks_over_the_number_of_candidates() -> None:
    rng = np.random.default_rng(0)
    sizes = [5, 0, 1, 8]
    probability = rng.integers(0, 4, (4, 8, 3)).astype(np.float32)
    found = places_in(probability, sizes)
    for row, n in enumerate(sizes):
        for m in range(3):
            ranks = request_ranks(probability[row, :n, m].astype(float), np.zeros(n, int))
            np.testing.assert_allclose(found[row, :n, m], ranks / max(n, 1), rtol=1e-6)
        assert (found[row, n:] == 0).all()
