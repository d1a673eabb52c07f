"""FM or KFM, which experts, which gradients: the fine ranker compared with itself on a log.

`python -m engine.ranking.wesing.study` does so on the simulated platform, with a folder of the
KuaiRand subset on that; it prints one line of JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from engine.ranking.auc import F64, auc, bootstrap, gauc, interval
from engine.ranking.data.impressions import Impressions
from engine.ranking.data.kuairand import load_kuairand
from engine.ranking.data.live import LiveConfig, simulate_live
from engine.ranking.data.past import with_past
from engine.ranking.features import FieldEmbedding, fit

from .config import ExpertsConfig, GradientsConfig, RankerConfig, StudyConfig, TrainConfig
from .experts import Experts, within_budget
from .ranker import n_inputs, train_ranker

# Each list is compared within itself; the last of it is the ranker that all lists have in common.
_LISTS = {
    "kfm": ("fm", "kfm_equal", "kfm"),
    "experts": ("shared_bottom", "mmoe", "cgc"),
    "gradients": ("gradnorm", "pcgrad", "sum"),
}
_COMMON = ("kfm", "cgc", "sum")


class _Runs(NamedTuple):
    """One ranker over the seeds."""

    point: F64  # [2, S, M] of AUC and GAUC
    draws: F64  # [2, resamples, S, M]
    rate: float
    seconds: float  # of one training


def study(log: Impressions, config: StudyConfig | None = None) -> dict[str, Any]:
    """Lists `kfm`, `experts` and `gradients` of rows, AUC and GAUC on the last quarter by time.

    The learning rate of each ranker is chosen on the third quarter after training on the half
    before it; the rankers that are asked are trained on the half before the last quarter, one a
    seed, so that a rate is used for as many steps as it was chosen for. Experts have the parameters
    of CGC's, at most.

    Returns:
        Each row has `method`, `auc` and `gauc` of each objective and their `mean`, as value, `low`
        and `high`; `minus` has the same of the differences from the other rows of its list;
        `parameters` of the experts, `rate`, `seconds` of a training. Intervals are of 95 %, by
        bootstrap over users and seeds, differences paired in both.
    """
    config = config or StudyConfig()
    log = with_past(log)
    quarter, half, last = (int(t) for t in np.quantile(log.time, [0.25, 0.5, 0.75]))
    start, end = int(log.time[0]), int(log.time[-1]) + 1
    first, valid = log.between(start, half), log.between(half, last)
    seen, asked = log.between(quarter, last), log.between(last, end)
    variants = _variants(seen, _with_parents(config, log))
    runs = {
        name: _run(seen, asked, _tuned(first, valid, train, config), config)
        for name, train in variants.items()
    }
    sizes = {name: _expert_parameters(seen, train) for name, train in variants.items()}
    rows = {}
    for kind, names in _LISTS.items():
        keys = ["common" if name in _COMMON else name for name in names]
        rows[kind] = [
            {
                "method": name,
                **_measured(runs[key].point, runs[key].draws, log.objectives, config),
                "minus": {
                    other: _difference(runs[key], runs[theirs], log.objectives, config)
                    for other, theirs in zip(names, keys, strict=True)
                    if other != name
                },
                "parameters": sizes[key],
                "rate": runs[key].rate,
                "seconds": runs[key].seconds,
            }
            for name, key in zip(names, keys, strict=True)
        ]
    return {
        **rows,
        "rows": [len(first), len(valid), len(seen), len(asked)],
        "config": config.model_dump(),
    }


def _with_parents(config: StudyConfig, log: Impressions) -> TrainConfig:
    """`train`, with the click as parent of the objectives that never happen without it."""
    labels = dict(zip(log.objectives, log.labels.T, strict=True))
    if config.click not in labels:
        raise ValueError(
            f"study: click: expected one of {list(log.objectives)}, got {config.click}"
        )
    parents = {
        name: config.click
        for name, label in labels.items()
        if name != config.click and not (label & ~labels[config.click]).any()
    }
    return _changed(config.train, parents=parents)


def _changed(train: TrainConfig, **changes: Any) -> TrainConfig:
    """With changes of the ranker."""
    ranker = RankerConfig.model_validate(train.ranker.model_dump() | changes)
    return train.model_copy(update={"ranker": ranker})


def _variants(seen: Impressions, train: TrainConfig) -> dict[str, TrainConfig]:
    budget = _expert_parameters(seen, train)
    width = n_inputs(train.ranker, _dims(seen, train))

    def experts(**changes: Any) -> TrainConfig:
        kind = ExpertsConfig.model_validate(train.ranker.experts.model_dump() | changes)
        fitted = within_budget(width, len(seen.objectives), kind, budget)
        return _changed(train, experts=fitted.model_dump())

    equal = train.model_copy(update={"equal_fields": True})
    return {
        "common": train,
        "fm": _changed(equal, interaction="fm"),
        "kfm_equal": equal,
        "shared_bottom": experts(kind="shared_bottom"),
        "mmoe": experts(kind="mmoe", shared=4),
        "gradnorm": train.model_copy(update={"gradients": GradientsConfig(method="gradnorm")}),
        "pcgrad": train.model_copy(update={"gradients": GradientsConfig(method="pcgrad")}),
    }


def _dims(seen: Impressions, train: TrainConfig) -> tuple[int, ...]:
    features = fit(seen, train.features)
    return FieldEmbedding(features, train.dim, join=train.join, equal=train.equal_fields).dims


def _expert_parameters(seen: Impressions, train: TrainConfig) -> int:
    width = n_inputs(train.ranker, _dims(seen, train))
    experts = Experts(width, len(seen.objectives), train.ranker.experts)
    return sum(p.numel() for p in experts.parameters())


def _tuned(
    first: Impressions, valid: Impressions, train: TrainConfig, config: StudyConfig
) -> TrainConfig:
    """With the rate that does best on the validation part."""
    given = [train.model_copy(update={"lr": rate}) for rate in config.rates]
    if len(given) == 1:
        return given[0]
    return max(
        given, key=lambda one: float(np.nanmean(_areas(train_ranker(first, one)(valid), valid)))
    )


def _areas(p: F64, asked: Impressions) -> F64:
    """[2, M] AUC and GAUC of probabilities [n, M], of each objective by its own."""
    labels, request = asked.labels, asked.request
    found = [
        (auc(p[:, m], labels[:, [m]])[0], gauc(p[:, m], labels[:, [m]], request).mean[0])
        for m in range(p.shape[1])
    ]
    return np.array(found).T


def _run(seen: Impressions, asked: Impressions, train: TrainConfig, config: StudyConfig) -> _Runs:
    begin = time.process_time()
    scores = [
        train_ranker(seen, train.model_copy(update={"seed": seed}))(asked)
        for seed in range(config.seeds)
    ]
    seconds = (time.process_time() - begin) / config.seeds
    stacked = np.stack(scores)  # [S, n, M]
    draws = [
        np.concatenate(
            [
                bootstrap(
                    stacked[..., m], asked.labels[:, [m]], asked.request,
                    grouped=grouped, unit=asked.user, resamples=config.resamples,
                )
                for m in range(stacked.shape[2])
            ],
            2,
        )
        for grouped in (False, True)
    ]  # fmt: skip
    point = np.stack([_areas(p, asked) for p in scores], 1)
    return _Runs(point, np.stack(draws), train.lr, seconds)


def _difference(
    ours: _Runs, theirs: _Runs, objectives: tuple[str, ...], config: StudyConfig
) -> dict[str, Any]:
    return _measured(ours.point - theirs.point, ours.draws - theirs.draws, objectives, config)


def _measured(
    point: F64, draws: F64, objectives: tuple[str, ...], config: StudyConfig
) -> dict[str, Any]:
    """Values [2, S, M] over the seeds, and intervals of draws [2, R, S, M] with seeds drawn too."""
    drawn = np.random.default_rng(0).integers(0, config.seeds, (config.resamples, config.seeds))
    resampled = np.take_along_axis(draws, drawn[None, :, :, None], 2).mean(2)  # [2, R, M]
    found: dict[str, Any] = {}
    for k, measure in enumerate(("auc", "gauc")):
        values = {"mean": (point[k].mean(), resampled[k].mean(1))}
        values |= {
            name: (point[k, :, m].mean(), resampled[k, :, m]) for m, name in enumerate(objectives)
        }
        found[measure] = {
            name: dict(zip(("value", "low", "high"), (float(value), *interval(r)), strict=True))
            for name, (value, r) in values.items()
        }
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked_log = (
        load_kuairand(Path(sys.argv[1]))
        if sys.argv[1:]
        else simulate_live(LiveConfig(), 0).impressions
    )
    print(json.dumps(study(asked_log)))
