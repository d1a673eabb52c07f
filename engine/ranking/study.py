"""HarmonRank beside what a user might take instead, where the truth is known.

`python -m engine.ranking.study` prints one line of JSON: `mean_auc`, `ci`, `baselines`, `epsilon`,
`skew`, each over seeds of data and weights together.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
from scipy.stats import ttest_1samp

from .auc import F64
from .config import FusionConfig, LossName, StudyConfig
from .fusion import fused, mean_auc, train
from .rivals import expected_weights, trained, untrained
from .scored import Scored
from .simulate import rates, simulate


def study(config: StudyConfig) -> dict[str, Any]:
    """Mean AUC (GAUC where the fusion is per request) on fresh requests of the same world.

    Returns:
        mean_auc and its 95 % interval `ci`; `baselines`, each with its own and with
        `harmonrank_minus` over the same seeds; `skew`, the same for each skew; `epsilon`, mean AUC
        and share of blocks for each c; `temperature`, the pairwise surrogate's mean AUC for each
        τ; `harmonrank_minus` in both is of HarmonRank with the configured c. Intervals are
        Student's over the seeds.
    """
    areas = {skew: _seeds(config, skew) for skew in config.skews}
    by_skew = [
        {"skew": skew, "rates": _rates(config, skew).tolist(), **_summary(found)}
        for skew, found in areas.items()
    ]
    ours = areas[config.skews[0]]["harmonrank"].mean(1)
    first = {k: by_skew[0][k] for k in ("mean_auc", "ci", "objectives", "baselines")}
    return {
        **first,
        "epsilon": [_sweep(config, ours, "harmonrank", "c", c) for c in config.cs],
        "temperature": [_sweep(config, ours, "pairwise", "tau", tau) for tau in config.taus],
        "skew": by_skew,
        "config": config.model_dump(),
    }


def methods(seen: Scored, asked: Scored, truth: F64, fusion: FusionConfig) -> dict[str, F64]:
    """[M] AUC of each method on `asked`, fitted on `seen`; `oracle` knows the truth."""
    grouped = fusion.per_request
    scores = trained(seen, asked, fusion) | untrained(seen, asked, grouped=grouped)
    scores["oracle"] = truth @ expected_weights(seen.labels, seen.request, grouped=grouped)
    return {
        name: mean_auc(s, asked.labels, asked.request, grouped=grouped)
        for name, s in scores.items()
    }


def interval(values: F64) -> list[float]:
    """95 % interval of the mean over seeds, by Student's t."""
    found = ttest_1samp(values, 0).confidence_interval(0.95)
    return [float(found.low), float(found.high)]


def _data(config: StudyConfig, skew: float, seed: int) -> tuple[Scored, Scored, F64]:
    """Requests to fit on, requests to be asked and the latter's true probabilities."""
    simulation = config.simulation.model_copy(update={"skew": skew})
    return simulate(simulation, 0, seed)[0], *simulate(simulation, 1, seed)


def _seeds(config: StudyConfig, skew: float) -> dict[str, F64]:
    """[seeds, M] AUC of every method."""
    found = [
        methods(*_data(config, skew, seed), config.fusion.model_copy(update={"seed": seed}))
        for seed in range(config.seeds)
    ]
    return {name: np.stack([one[name] for one in found]) for name in found[0]}


def _summary(areas: dict[str, F64]) -> dict[str, Any]:
    ours = areas["harmonrank"].mean(1)
    baselines = {
        name: {**_compared(ours, values.mean(1)), "objectives": values.mean(0).tolist()}
        for name, values in areas.items()
        if name != "harmonrank"
    }
    return {
        "mean_auc": float(ours.mean()),
        "ci": interval(ours),
        "objectives": areas["harmonrank"].mean(0).tolist(),
        "baselines": baselines,
    }


def _compared(ours: F64, theirs: F64) -> dict[str, Any]:
    """A method's mean AUC over seeds, [seeds], beside HarmonRank's."""
    low, high = interval(ours - theirs)
    minus = {"mean": float((ours - theirs).mean()), "low": low, "high": high}
    return {"mean_auc": float(theirs.mean()), "ci": interval(theirs), "harmonrank_minus": minus}


def _sweep(
    config: StudyConfig, ours: F64, loss: LossName, name: str, value: float
) -> dict[str, Any]:
    """Mean AUC at the first skew of one loss with one setting changed."""
    areas, blocks = [], []
    for seed in range(config.seeds):
        seen, asked, _ = _data(config, config.skews[0], seed)
        fusion = config.fusion.model_copy(update={"loss": loss, name: value, "seed": seed})
        network, share = train(seen, fusion)
        area = mean_auc(
            fused(network, asked), asked.labels, asked.request, grouped=fusion.per_request
        )
        areas.append(area.mean())
        blocks.append(share)
    row = {name: value, **_compared(ours, np.array(areas))}
    return row | ({"blocks": float(np.mean(blocks))} if loss == "harmonrank" else {})


def _rates(config: StudyConfig, skew: float) -> F64:
    return rates(config.simulation.model_copy(update={"skew": skew}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(study(StudyConfig.model_validate_json(sys.argv[1] if sys.argv[1:] else "{}"))))
