"""HarmonRank beside what a user might take instead, where the truth is known.

`python -m engine.ranking.study` prints one line of JSON: `mean_auc`, `ci`, `baselines`, `epsilon`,
`skew`, each over seeds of data and weights together.
"""

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import ttest_1samp

from .auc import F64
from .config import ComparisonConfig, FusionConfig, LossName, StudyConfig
from .fusion import fused, mean_auc, train
from .rivals import expected_weights, trained, untrained
from .scored import Scored
from .simulate import simulate


class Drawn(NamedTuple):
    """Impressions to fit on, those to be asked, and the latter's true probabilities [n, M]."""

    seen: Scored
    asked: Scored
    truth: F64


class Setting(NamedTuple):
    """One loss with one setting changed."""

    loss: LossName
    name: str
    value: float


class Found(NamedTuple):
    """What one seed gave at one skew."""

    areas: dict[str, F64]  # [M] AUC of each method
    rates: F64  # [M] of the truth
    swept: dict[Setting, tuple[float, float]]  # mean AUC, and share of blocks


def study(config: StudyConfig) -> dict[str, Any]:
    """`compare` on fresh requests of one simulated world a seed."""

    def draw(skew: float, seed: int) -> Drawn:
        simulation = config.simulation.model_copy(update={"skew": skew})
        return Drawn(simulate(simulation, 0, seed)[0], *simulate(simulation, 1, seed))

    return compare(config, draw)


def compare(config: ComparisonConfig, draw: Callable[[float, int], Drawn]) -> dict[str, Any]:
    """Mean AUC (GAUC where the fusion is per request) of each way of fusing what `draw` gives.

    Args:
        draw: skew and seed to data.
    Returns:
        mean_auc and its 95 % interval `ci`; `baselines`, each with its own and with
        `harmonrank_minus` over the same seeds; `skew`, the same for each skew; `epsilon`, mean AUC
        and share of blocks for each c; `temperature`, the pairwise surrogate's mean AUC for each
        τ; `harmonrank_minus` in both is of HarmonRank with the configured c. Intervals are
        Student's over the seeds.
    """
    settings = [Setting("harmonrank", "c", c) for c in config.cs]
    settings += [Setting("pairwise", "tau", tau) for tau in config.taus]
    by_skew, rows = {}, []
    for skew in config.skews:
        asked = settings if skew == config.skews[0] else []
        by_skew[skew] = [_seed(config, draw(skew, s), s, asked) for s in range(config.seeds)]
        rates = np.mean([one.rates for one in by_skew[skew]], 0)
        rows.append({"skew": skew, "rates": rates.tolist(), **_summary(by_skew[skew])})
    first = by_skew[config.skews[0]]
    sweeps = [_sweep(first, setting) for setting in settings]
    return {
        **{k: rows[0][k] for k in ("mean_auc", "ci", "objectives", "baselines")},
        "epsilon": sweeps[: len(config.cs)],
        "temperature": sweeps[len(config.cs) :],
        "skew": rows,
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
    """95 % interval of the mean over seeds, by Student's t; a point where all are alike."""
    if np.ptp(values) == 0:
        return [float(values[0])] * 2
    found = ttest_1samp(values, 0).confidence_interval(0.95)
    return [float(found.low), float(found.high)]


def _seed(config: ComparisonConfig, drawn: Drawn, seed: int, settings: list[Setting]) -> Found:
    """All methods, and HarmonRank or the surrogate in each setting."""
    fusion = config.fusion.model_copy(update={"seed": seed})
    swept = {}
    for setting in settings:
        changed = fusion.model_copy(update={"loss": setting.loss, setting.name: setting.value})
        network, blocks = train(drawn.seen, changed)
        asked = drawn.asked
        area = mean_auc(
            fused(network, asked), asked.labels, asked.request, grouped=fusion.per_request
        )
        swept[setting] = (float(area.mean()), blocks)
    return Found(methods(*drawn, fusion), drawn.truth.mean(0), swept)


def _summary(found: list[Found]) -> dict[str, Any]:
    areas = {name: np.stack([one.areas[name] for one in found]) for name in found[0].areas}
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


def _sweep(found: list[Found], setting: Setting) -> dict[str, Any]:
    """Mean AUC over seeds in one setting."""
    ours = np.array([one.areas["harmonrank"].mean() for one in found])
    areas, blocks = np.array([one.swept[setting] for one in found]).T
    row = {setting.name: setting.value, **_compared(ours, areas)}
    return row | ({"blocks": float(blocks.mean())} if setting.loss == "harmonrank" else {})


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(study(StudyConfig.model_validate_json(sys.argv[1] if sys.argv[1:] else "{}"))))
