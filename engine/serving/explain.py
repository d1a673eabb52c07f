"""Why an item was answered: which vector, and what its score is made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.retrieval.merge import RankedList

from .request import SOURCES

if TYPE_CHECKING:
    from .funnel import Ranked
    from .query import Query
    from .recommender import Recommender

REPEAT = SOURCES.index("repeat")
_NEAREST = 3


def explain(
    recommender: Recommender, query: Query, retrieved: RankedList, ranked: Ranked | None
) -> str:
    """JSON of a list.

    For every item: its source and score, and where vectors found it, the terms of the sum
    scale · (dot + context) + prior + repeat + discovery, with the history's nearest items by
    cosine. The sum is the score, and where the item was ranked after that, it is `retrieved` and
    the probability of each objective stands beside the score.
    """
    answer = retrieved if ranked is None else ranked.answer
    if query.is_unknown:
        places = np.flatnonzero(answer.items >= 0).tolist()
        entries = [_entry(recommender, answer, place) for place in places]
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
        "items": _scored(recommender, query, retrieved, ranked),
    }
    return json.dumps(document)


def _entry(recommender: Recommender, answer: RankedList, place: int) -> dict[str, Any]:
    return {
        "item_id": int(recommender.catalogue.item_ids[answer.items[place]]),
        "source": SOURCES[int(answer.source[place])],
        "score": _number(answer.scores[place]),
    }


def _scored(
    recommender: Recommender, query: Query, retrieved: RankedList, ranked: Ranked | None
) -> list[dict[str, Any]]:
    """Every item's entry with the terms of the score that it was retrieved by."""
    answer = retrieved if ranked is None else ranked.answer
    places = np.flatnonzero(answer.items >= 0).tolist()
    items = answer.items[places]
    by = dict(zip(retrieved.items.tolist(), retrieved.scores.tolist(), strict=True))
    nearest = _nearest(recommender, query, items)
    entries = []
    for row, place in enumerate(places):
        item = int(items[row])
        candidate, prior = recommender.catalogue.candidates[item], float(recommender.bias[item])
        entry = _entry(recommender, answer, place)
        if ranked is not None and recommender.funnel is not None:
            entry["retrieved"] = _number(by[item])
            names = recommender.funnel.objectives
            entry["objectives"] = dict(
                zip(names, map(_number, ranked.objectives[place]), strict=True)
            )
        head, scale, repeat, discovery = int(answer.source[place]), 1.0, 0.0, 0.0
        if head == REPEAT:
            logits = query.repeat_logits[:, np.flatnonzero(query.state.item == item)[0]]
            # In a round robin only its logit tells from which list a repeat came.
            head = min(query.heads, key=lambda h: abs(float(logits[h] - by[item])))
            scale = float(recommender.weights.scale[head])
            repeat = float(logits[head] - prior - scale * (query.vectors[head] @ candidate))
        elif recommender.weights.discovers and query.request.repeats == "exclude":
            scale = float(recommender.weights.discovery[head, 0])
            discovery = float(by[item] - prior - scale * (query.vectors[head] @ candidate))
        context = float(query.delta @ candidate)
        entry["vector"] = SOURCES[head]
        entry["terms"] = {
            "dot": _number(query.vectors[head] @ candidate - context),
            "context": _number(context),
            "scale": _number(scale),
            "prior": _number(prior),
            "repeat": _number(repeat),
            "discovery": _number(discovery),
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
