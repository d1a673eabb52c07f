"""The report by what is asked, and for whom: candidate sets, categories, households, cold items."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.dataset import Dataset
from engine.evaluation import baselines
from engine.evaluation.candidate_sets import CandidateSets
from engine.evaluation.evaluate import K
from engine.evaluation.metrics import interval, per_request
from engine.training.history import past

from .config import ReportConfig
from .measures import minus, summary, values_of
from .setting import cold_items
from .study import Study
from .tables import mean_interval

Row = dict[str, Any]
_HIT = 5
_SHOWN = 10  # categories at either end
_LEAST = 100  # targets of a category that is shown
OURS = "round_robin"


def by_candidates(
    study: Study, sets: Mapping[str, CandidateSets], ranked: Mapping[str, Mapping[str, Any]]
) -> Row:
    """Hit@5 of the one bought item by the size of its set, and ours minus LambdaMART.

    Args:
        ranked: method -> lists `candidates_<size>` [R, 10] of the sets.
    """
    found: Row = {}
    for size, own in sets.items():
        users = study.task.users[own.request]
        if not len(users):
            continue
        lists = {name: np.array(of[f"candidates_{size}"], np.int64) for name, of in ranked.items()}
        lists |= _counted(study, own)
        hits = {
            name: (rows[:, :_HIT] == own.positive[:, None]).any(axis=1).astype(np.float64)
            for name, rows in lists.items()
        }
        found[size] = {
            "requests": len(users),
            "mean_size": float(np.mean([len(items) for items in own.items])),
            "hit@5": {name: mean_interval(of, users) for name, of in hits.items()},
        }
        if {"stars", "lambdamart"} <= hits.keys():
            gain = interval(hits["stars"] - hits["lambdamart"], users)
            found[size]["stars_minus_lambdamart"] = gain
            found[size]["gain"] = gain["mean"] / hits["lambdamart"].mean()
    return found


def _counted(study: Study, sets: CandidateSets) -> dict[str, NDArray[np.int64]]:
    """The sets ordered by popularity, and by the household's decayed purchases before it."""
    counts = study.history.counts
    lists: dict[str, list[NDArray[np.int64]]] = {"popularity": [], "personal_recency": []}
    weights = baselines.personal_weights(study.history, study.task, baselines.HALF_LIFE_DAYS)
    for request, items in zip(sets.request.tolist(), sets.items, strict=True):
        own, weight = weights[request]
        place = np.searchsorted(own, items)
        known = np.zeros(len(items))
        if len(own):
            at = np.minimum(place, len(own) - 1)
            known = np.where(own[at] == items, weight[at], 0.0)
        for name, order in (
            ("popularity", np.lexsort((items, -counts[items]))),
            ("personal_recency", np.lexsort((items, -counts[items], -known))),
        ):
            head = items[order][:K]
            lists[name].append(np.concatenate([head, np.full(K - len(head), -1)]))
    return {name: np.array(rows, np.int64).reshape(-1, K) for name, rows in lists.items()}


def by_category(study: Study, column: str) -> Row:
    """Share of a category's bought items that are in the ten: the best and the worst for us.

    Args:
        column: of the items' table, or "subclass".
    """
    frame = study.dataset.items_frame()
    names = frame[column if column in frame.columns else "subclass"].to_list()
    category = np.unique(np.array([str(name) for name in names]), return_inverse=True)
    rows: list[Row] = []
    n_of = np.zeros(len(category[0]), np.int64)
    hits = {name: np.zeros(len(category[0])) for name in (OURS, "personal_recency", "lambdamart")}
    hits = {name: of for name, of in hits.items() if name in study.lists}
    for place, target in enumerate(study.task.targets):
        kinds = category[1][target]
        np.add.at(n_of, kinds, 1)
        for name, of in hits.items():
            np.add.at(of, kinds, np.isin(target, study.lists[name][place]))
    for kind in np.flatnonzero(n_of >= _LEAST).tolist():
        rows.append(
            {"category": str(category[0][kind]), "targets": int(n_of[kind])}
            | {name: float(of[kind] / n_of[kind]) for name, of in hits.items()}
        )
    rows.sort(key=lambda row: -float(row[OURS]))
    return {"best": rows[:_SHOWN], "worst": rows[_SHOWN:][-_SHOWN:], "least_targets": _LEAST}


def by_history(study: Study) -> list[Row]:
    """Light, medium and heavy households: thirds by sessions before the cut."""
    sessions = np.array([len(study.history.session_start[u]) - 1 for u in study.task.users])
    low, high = np.quantile(sessions, [1 / 3, 2 / 3])
    group = np.digitize(sessions, [low, high], right=True)
    found = []
    for place, name in enumerate(("light", "medium", "heavy")):
        inside = group == place
        if not inside.any():
            continue
        users = study.task.users[inside]
        values = {
            method: {measure: of[inside] for measure, of in study.values[method].items()}
            for method in (OURS, "next", "personal_recency", "lambdamart")
            if method in study.values
        }
        found.append(
            {
                "households": name,
                "requests": int(inside.sum()),
                "sessions": [int(sessions[inside].min()), int(sessions[inside].max())],
                "table": {method: summary(of, users) for method, of in values.items()},
                "minus": {
                    rival: minus(values[OURS], values[rival], users)
                    for rival in ("personal_recency", "lambdamart")
                    if rival in values
                },
            }
        )
    return found


def newcomers(study: Study, full: Mapping[str, Any], config: ReportConfig) -> list[Row]:
    """Households known by their last sessions alone: ours beside counting of the same sessions."""
    users, targets = study.task.users, study.task.targets
    found = []
    for n in config.known_sessions:
        rows = np.array(full["lists"][f"newcomers_{n}"], np.int64)
        known = _last_sessions(study, n)
        short = past(known, study.cut, 1.0, study.repeat_types)
        lists = {
            OURS: rows,
            "personal_recency": baselines.personal(
                short, study.task, K, baselines.HALF_LIFE_DAYS, study.history
            ),
            "popularity": study.lists["popularity"],
        }
        values = values_of(lists, targets)
        found.append(
            {
                "sessions": n,
                "table": {name: summary(of, users) for name, of in values.items()},
                "minus": {
                    name: minus(values[OURS], values[name], users)
                    for name in ("personal_recency", "popularity")
                },
            }
        )
    return found


def _last_sessions(study: Study, n: int) -> Dataset:
    """The dataset with the last n sessions before the cut of everyone alone."""
    dataset, cut = study.dataset, study.cut
    user = np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.event_offsets))
    before = dataset.event_time < cut
    last = np.full(len(dataset.user_ids), -1, np.int64)
    np.maximum.at(last, user[before], dataset.event_session[before])
    keep = before & (dataset.event_session > last[user] - n)
    fields = ("event_item", "event_time", "event_type", "event_session", "event_outcome")
    return replace(
        dataset,
        event_offsets=np.concatenate([[0], np.cumsum(keep)])[dataset.event_offsets],
        **{name: getattr(dataset, name)[keep] for name in fields},
    )


def cold(study: Study, results: Mapping[str, Mapping[str, Any]]) -> Row:
    """First purchases of items that appeared in the last 28 days, among those items alone.

    Args:
        results: "full" and "no_text_no_tags", with lists `cold` of models that end before those
            days.
    """
    items, bought = cold_items(study.dataset, study.cut, study.task)
    places = sorted(bought)
    targets = [bought[place] for place in places]
    found: Row = {
        "items": len(items),
        "requests": len(places),
        "bought": int(sum(len(target) for target in targets)),
        "recall@10": {},
        "chance": min(K / max(len(items), 1), 1.0),
    }
    if not places:
        return found
    users = study.task.users[np.array(places, np.int64)]
    values = {
        name: per_request(np.array(result["lists"]["cold"], np.int64), targets)["recall@10"]
        for name, result in results.items()
    }
    found["recall@10"] = {name: mean_interval(of, users) for name, of in values.items()}
    if {"full", "no_text_no_tags"} <= values.keys():
        without = values["no_text_no_tags"]
        found["full_minus_three_times"] = interval(values["full"] - 3 * without, users)
        found["ratio"] = float(values["full"].mean() / without.mean()) if without.any() else None
    return found


def drift(parts: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Weeks since training, of the parts that looked."""
    return [row for part in parts for row in part.get("drift", ())]
