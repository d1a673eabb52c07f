"""The report's tables of one shop: accuracy, discovery, cuts, seeds and ablation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.evaluate import COMPARED as OURS
from engine.evaluation.metrics import ACCURACY, coverage, interval, per_request

from .config import FULL, PRIOR, ReportConfig
from .measures import (
    Values,
    gini,
    mean_popularity_rank,
    minus,
    summary,
    values_of,
)
from .study import Study

Row = dict[str, Any]
_RIVALS = ("personal_recency", "personal_frequency", "lambdamart")
_TWICE = 2.0  # popularity, that discovery is held against


def table(study: Study) -> Row:
    """method -> measures with intervals, and coverage@10."""
    users, n_catalogue = study.task.users, len(study.history.catalogue)
    return {
        name: summary(values, users) | {"coverage@10": coverage(study.lists[name], n_catalogue)}
        for name, values in study.values.items()
    }


def cuts(studies: Sequence[Study]) -> list[Row]:
    """Means of every method at every cut, the final one first."""
    return [
        {
            "cut": study.cut,
            "requests": len(study.task.users),
            "table": {
                name: {measure: float(of[measure].mean()) for measure in ACCURACY}
                | {"coverage@10": coverage(study.lists[name], len(study.history.catalogue))}
                for name, of in study.values.items()
            },
        }
        for study in studies
    ]


def differences(studies: Sequence[Study]) -> Row:
    """Ours minus each rival over all requests of these cuts: ours -> rival -> measure."""
    users = np.concatenate([study.task.users for study in studies])
    values = _joined([study.values for study in studies])
    return {
        ours: {
            rival: minus(values[ours], values[rival], users) for rival in _RIVALS if rival in values
        }
        for ours in OURS
    }


def discovery(studies: Sequence[Study]) -> Row:
    """Of items that a household never bought: the final cut's table, and differences.

    `minus` has ours minus each other method at the final cut, `minus_all_cuts` over all of them;
    `twice_popularity` is ours minus twice popularity.
    """
    values = [values_of(study.discovery, study.new_targets[1]) for study in studies]
    users = [study.task.users[study.new_targets[0]] for study in studies]
    all_users, joined = np.concatenate(users), _joined(values)
    final = values[0]
    others = [name for name in final if name not in (*OURS, "general")]
    return {
        "requests": len(users[0]),
        "table": {
            name: summary(of, users[0])
            | {"coverage@10": coverage(study_lists, len(studies[0].history.catalogue))}
            for (name, of), study_lists in zip(
                final.items(), studies[0].discovery.values(), strict=True
            )
        },
        "minus": {
            ours: {name: minus(final[ours], final[name], users[0]) for name in others}
            for ours in OURS
        },
        "minus_all_cuts": {
            ours: {
                name: minus(joined[ours], joined[name], all_users)
                for name in others
                if name in joined
            }
            for ours in OURS
        },
        "twice_popularity": {
            ours: {
                "final": minus(final[ours], final["popularity"], users[0], _TWICE)["recall@10"],
                "all_cuts": minus(joined[ours], joined["popularity"], all_users, _TWICE)[
                    "recall@10"
                ],
            }
            for ours in OURS
        },
    }


def seeds(study: Study, results: Sequence[Mapping[str, Any]]) -> Row:
    """Ours at the final cut by seed: every run's means, their mean and standard deviation."""
    found: Row = {}
    for name in OURS:
        runs = []
        for result in results:
            rows = np.array(result["lists"][name], np.int64)
            values = per_request(rows, study.task.targets)
            runs.append({measure: float(of.mean()) for measure, of in values.items()})
        found[name] = {
            "runs": runs,
            "mean": {m: float(np.mean([run[m] for run in runs])) for m in ACCURACY},
            "std": {m: float(np.std([run[m] for run in runs], ddof=1)) for m in ACCURACY}
            if len(runs) > 1
            else None,
        }
    return found


def ablation(study: Study, results: Mapping[str, Mapping[str, Any]]) -> Row:
    """variant -> strategy -> means, and the difference to the full model, request by request.

    Args:
        results: variant -> result of its part, the full model's among them.
    """
    users = study.task.users
    found: Row = {}
    for name, result in _variants(results).items():
        found[name] = {}
        for strategy in OURS:
            rows = np.array(result[strategy], np.int64)
            values = per_request(rows, study.task.targets)
            found[name][strategy] = {
                **{measure: float(of.mean()) for measure, of in values.items()},
                "coverage@10": coverage(rows, len(study.history.catalogue)),
                "minus_full": minus(values, study.values[strategy], users),
            }
    return found


def _variants(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Lists by the ablation's names: two of them are one training served with another λ."""
    found = {name: {s: of["lists"][s] for s in OURS} for name, of in results.items()}
    if PRIOR in found:
        found["prior_trained_and_served"] = found.pop(PRIOR)
    found["prior_served"] = {s: results[FULL]["lists"][f"prior_served_{s}"] for s in OURS}
    return found


def prior(study: Study, results: Mapping[str, Mapping[str, Any]], config: ReportConfig) -> Row:
    """λ_train -> rows of λ_serve: accuracy against coverage, evenness and popularity."""
    found: Row = {}
    for variant, value in ((FULL, 0.0), (PRIOR, 0.3)):
        if variant not in results:
            continue
        rows = []
        for lambda_serve in config.lambdas:
            lists = np.array(results[variant]["lists"][f"lambda_{lambda_serve:g}"], np.int64)
            values = per_request(lists, study.task.targets)
            rows.append(
                {
                    "lambda_serve": lambda_serve,
                    **{measure: float(of.mean()) for measure, of in values.items()},
                    "coverage@10": coverage(lists, len(study.history.catalogue)),
                    "gini": gini(lists, study.history),
                    "popularity_rank": mean_popularity_rank(lists, study.history),
                }
            )
        found[f"{value:g}"] = rows
    return found


def _joined(values: Sequence[Values]) -> Values:
    """One after the other, of the methods that all cuts have."""
    names = [name for name in values[0] if all(name in of for of in values)]
    return {
        name: {m: np.concatenate([of[name][m] for of in values]) for m in ACCURACY}
        for name in names
    }


def mean_interval(values: NDArray[np.float64], users: NDArray[np.int64]) -> Row:
    """mean and ci of one measure."""
    of = interval(values, users)
    return {"mean": of["mean"], "ci": [of["low"], of["high"]]}
