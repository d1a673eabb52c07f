"""Why an item was answered: which vector, and what its score is made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.retrieval.merge import RankedList

if TYPE_CHECKING:
    from .query import Query
    from .recommender import Recommender

_NEAREST = 3
_SOURCES = {0: "next", 1: "general", 2: "repeat", 3: "popularity"}


def explain(recommender: Recommender, query: Query, ranked: RankedList) -> str:
    """JSON of a list.

    For every item: its source and score, and where vectors made it, the terms of the sum
    score = scale · (dot + context) + prior + repeat, with the history's nearest items by cosine.
    """
    places = np.flatnonzero(ranked.items >= 0).tolist()
    if query.is_unknown:
        entries = [_entry(recommender, ranked, place) for place in places]
        return json.dumps({"user": "unknown", "items": entries})
    vectors = "live" if query.live else "stored"
    features = recommender.bundle.manifest.signals
    document = {
        "user": "anonymous" if query.record is None else "known",
        "vectors": vectors,
        "events": len(query.history.items),
        "context": {
            "norm": _number(np.linalg.norm(query.delta)),
            "signals": {
                feature.name: _number(value * feature.std + feature.mean)
                for feature, value in zip(features, query.signals, strict=True)
            },
        },
        "items": [_scored(recommender, query, ranked, place) for place in places],
    }
    return json.dumps(document)


def _entry(recommender: Recommender, ranked: RankedList, place: int) -> dict[str, Any]:
    return {
        "item_id": int(recommender.item_ids[ranked.items[place]]),
        "source": _SOURCES[int(ranked.source[place])],
        "score": _number(ranked.scores[place]),
    }


def _scored(
    recommender: Recommender, query: Query, ranked: RankedList, place: int
) -> dict[str, Any]:
    """One item's entry with the terms of its score."""
    item = int(ranked.items[place])
    candidate, prior = recommender.candidates[item], float(recommender.bias[item])
    bought = np.flatnonzero(query.state.item == item)
    entry = _entry(recommender, ranked, place)
    head = _head(query, ranked, place, bought)
    scale, repeat = 1.0, 0.0
    dot = float(query.vectors[head] @ candidate)
    if len(bought):
        scale = float(recommender.weights.scale[head])
        repeat = float(query.repeat_logits[head, bought[0]]) - scale * dot - prior
    context = float(query.delta @ candidate)
    entry["vector"] = "next" if head == 0 else "general"
    entry["terms"] = {
        "dot": _number(dot - context),
        "context": _number(context),
        "scale": _number(scale),
        "prior": _number(prior),
        "repeat": _number(repeat),
    }
    entry["nearest"] = _nearest(recommender, query, item)
    return entry


def _head(query: Query, ranked: RankedList, place: int, bought: Any) -> int:
    """The vector whose list gave the item; a repeat in a round robin is told by its logit."""
    if not len(bought):
        return int(ranked.source[place])
    gaps = [
        abs(float(query.repeat_logits[h, bought[0]] - ranked.scores[place])) for h in query.heads
    ]
    return query.heads[int(np.argmin(gaps))]


def _nearest(recommender: Recommender, query: Query, item: int) -> list[dict[str, Any]]:
    """The distinct items of the history whose candidate vectors point most nearly the same way."""
    history = np.unique(query.history.items)
    history = history[history != item]
    rows = recommender.candidates[history]
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(recommender.candidates[item])
    cosine = rows @ recommender.candidates[item] / np.maximum(norms, 1e-12)
    best = np.lexsort((history, -cosine))[:_NEAREST]
    return [
        {"item_id": int(recommender.item_ids[history[i]]), "cosine": _number(cosine[i])}
        for i in best
    ]


def _number(value: Any) -> float:
    return round(float(value), 6)
