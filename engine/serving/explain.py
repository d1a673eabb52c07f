"""Why an item was answered: which vector, and what its score is made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.retrieval.merge import RankedList

from .request import SOURCES

if TYPE_CHECKING:
    from .query import Query
    from .recommender import Recommender

REPEAT = SOURCES.index("repeat")
_NEAREST = 3


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
        "items": _scored(recommender, query, ranked, places),
    }
    return json.dumps(document)


def _entry(recommender: Recommender, ranked: RankedList, place: int) -> dict[str, Any]:
    return {
        "item_id": int(recommender.catalogue.item_ids[ranked.items[place]]),
        "source": SOURCES[int(ranked.source[place])],
        "score": _number(ranked.scores[place]),
    }


def _scored(
    recommender: Recommender, query: Query, ranked: RankedList, places: list[int]
) -> list[dict[str, Any]]:
    """Every item's entry with the terms of its score."""
    items = ranked.items[places]
    nearest = _nearest(recommender, query, items)
    entries = []
    for row, place in enumerate(places):
        item = int(items[row])
        candidate, prior = recommender.catalogue.candidates[item], float(recommender.bias[item])
        entry = _entry(recommender, ranked, place)
        head, scale, repeat = int(ranked.source[place]), 1.0, 0.0
        if head == REPEAT:
            logits = query.repeat_logits[:, np.flatnonzero(query.state.item == item)[0]]
            # In a round robin only its logit tells from which list a repeat came.
            head = min(query.heads, key=lambda h: abs(float(logits[h] - ranked.scores[place])))
            scale = float(recommender.weights.scale[head])
            repeat = float(logits[head] - prior - scale * (query.vectors[head] @ candidate))
        context = float(query.delta @ candidate)
        entry["vector"] = SOURCES[head]
        entry["terms"] = {
            "dot": _number(query.vectors[head] @ candidate - context),
            "context": _number(context),
            "scale": _number(scale),
            "prior": _number(prior),
            "repeat": _number(repeat),
        }
        entry["nearest"] = nearest[row]
        entries.append(entry)
    return entries


def _nearest(
    recommender: Recommender, query: Query, items: NDArray[np.int64]
) -> list[list[dict[str, Any]]]:
    """For each item the history's items whose candidate vectors point most nearly the same way."""
    history = np.unique(query.history.items)
    cosine = (
        _unit(recommender.catalogue.candidates[items])
        @ _unit(recommender.catalogue.candidates[history]).T
    )
    cosine[items[:, None] == history] = -np.inf
    best = np.argsort(-cosine, axis=1, kind="stable")[:, :_NEAREST]
    return [
        [
            {"item_id": int(recommender.catalogue.item_ids[history[i]]), "cosine": _number(row[i])}
            for i in chosen
            if np.isfinite(row[i])
        ]
        for row, chosen in zip(cosine, best, strict=True)
    ]


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = rows / np.maximum(np.linalg.norm(rows, axis=1), 1e-12)[:, None]
    return unit


def _number(value: Any) -> float:
    return round(float(value), 6)
