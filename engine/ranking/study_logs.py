"""HarmonRank beside what a user might take instead, on logged impressions.

Time splits the log in three: on the first part the upstream ranker is trained, on the second the
fusion, the third is asked. `python -m engine.ranking.study_logs FOLDER` does so on the KuaiRand
subset and prints one line of JSON.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .auc import F64, bootstrap, gauc, interval
from .config import LOSSES, FusionConfig
from .data.impressions import Impressions
from .data.kuairand import load_kuairand
from .data.past import with_past
from .rivals import trained, untrained
from .scored import Scored
from .upstream import train_upstream, user_profile

Rank = Callable[[Impressions], F64]  # probabilities [n, M]


def split(log: Impressions) -> tuple[Impressions, Impressions, Impressions]:
    """First half, next and last quarter of the rows by time; a request goes where it began."""
    half, last = (int(t) for t in np.quantile(log.time, [0.5, 0.75]))
    start, end = int(log.time[0]), int(log.time[-1]) + 1
    return log.between(start, half), log.between(half, last), log.between(last, end)


def compare(
    log: Impressions, fusion: FusionConfig, seeds: int = 5, resamples: int = 1000
) -> dict[str, Any]:
    """`mean_auc`, `ci` and `baselines` as of `study`, and `objectives` per method.

    Each trained fusion is the mean over seeds of its AUC, the upstream ranker the same for all.
    Intervals draw users of the last part: 95 %, of the mean over objectives.
    """
    first, second, third = split(with_past(log))
    upstream = train_upstream(first)
    seen, asked = (
        Scored(upstream(part), user_profile(part), part.labels, part.request)
        for part in (second, third)
    )
    grouped = fusion.per_request
    runs = [trained(seen, asked, fusion.model_copy(update={"seed": s})) for s in range(seeds)]
    scores: dict[str, list[F64]] = {loss: [run[loss] for run in runs] for loss in LOSSES}
    scores |= {k: [v] for k, v in untrained(seen, asked, grouped=grouped).items()}
    one = asked.request if grouped else np.zeros_like(asked.request)
    draws, point = {}, {}
    for name, rows in scores.items():
        resampled = bootstrap(
            np.stack(rows), asked.labels, asked.request,
            grouped=grouped, unit=third.user, resamples=resamples,
        )  # fmt: skip
        draws[name] = resampled.mean((1, 2))
        point[name] = np.mean([gauc(row, asked.labels, one).mean for row in rows], 0)
    ours = point["harmonrank"].mean()
    baselines = {}
    for name in list(scores)[1:]:
        low, high = interval(draws["harmonrank"] - draws[name])
        baselines[name] = {
            "mean_auc": float(point[name].mean()),
            "ci": interval(draws[name]),
            "harmonrank_minus": {
                "mean": float(ours - point[name].mean()), "low": low, "high": high
            },
        }  # fmt: skip
    counted = gauc(scores["harmonrank"][0], asked.labels, asked.request)
    return {
        "mean_auc": float(ours),
        "ci": interval(draws["harmonrank"]),
        "baselines": baselines,
        "objectives": {
            m: {
                "rate": float(asked.labels[:, k].mean()),
                "requests": int(counted.counted[k]),
                **{name: float(values[k]) for name, values in point.items()},
            }
            for k, m in enumerate(log.objectives)
        },
        "rows": [len(first), len(second), len(third)],
        "seeds": seeds,
        "config": fusion.model_dump(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = FusionConfig.model_validate_json(sys.argv[2] if sys.argv[2:] else "{}")
    print(json.dumps(compare(load_kuairand(Path(sys.argv[1])), settings)))
