"""What the correction of in-batch negatives is worth: recall of the two towers on a log.

`python -m engine.ranking.wesing.study_recall` does so on the simulated platform and prints one
line of JSON.
"""

import json
from typing import Any

import numpy as np
import torch

from engine.ranking.auc import F64, interval
from engine.ranking.data.impressions import Impressions
from engine.ranking.data.live import LiveConfig, simulate_live
from engine.ranking.data.past import with_past

from .config import CORRECTIONS, Correction, RecallStudyConfig
from .dssm import train_dssm
from .recall import DssmSource, recall_at


def study_recall(log: Impressions, config: RecallStudyConfig | None = None) -> dict[str, Any]:
    """Rows `recall`: recall@k of each correction, on the last quarter of the log by time.

    A request asks for its user as its first row finds them, among the items of the whole quarter,
    each as it was first shown; what it wants are its positives. Towers are trained on the first
    three quarters, once a seed.

    Returns:
        Each row has `correction`, `value` with `low` and `high`, and `minus_none` with the same of
        its difference from no correction: 95 %, by bootstrap over users and seeds, paired in both.
    """
    config = config or RecallStudyConfig()
    log = with_past(log)
    last = int(np.quantile(log.time, 0.75))
    seen = log.between(int(log.time[0]), last)
    asked = log.between(last, int(log.time[-1]) + 1)
    shown = Impressions(asked.frame.unique("item_id", keep="first", maintain_order=True))
    _, first = np.unique(asked.request, return_index=True)
    user = asked.user[first]
    found = {name: _recalls(seen, asked, shown, name, config) for name in CORRECTIONS}
    rows = []
    for name, values in found.items():
        row: dict[str, Any] = {"correction": name, **_measured(values, user, config)}
        if name != "none":
            row["minus_none"] = _measured(values - found["none"], user, config)
        rows.append(row)
    return {
        "recall": rows,
        "k": config.k,
        "items": len(shown),
        "requests": int((~np.isnan(found["none"][0])).sum()),
        "config": config.model_dump(),
    }


def _recalls(
    seen: Impressions,
    asked: Impressions,
    shown: Impressions,
    correction: Correction,
    config: RecallStudyConfig,
) -> F64:
    """[S, Q] recall@k of each seed and request."""
    _, first = np.unique(asked.request, return_index=True)
    queries = Impressions(asked.frame[first.tolist()])
    rows = []
    for seed in range(config.seeds):
        dssm = config.dssm.model_copy(update={"seed": seed, "correction": correction})
        ids = DssmSource(train_dssm(seen, dssm), shown).recall(queries, config.k)
        rows.append(recall_at(ids, asked.request, asked, dssm.objective))
    return np.stack(rows)


def _measured(values: F64, user: Any, config: RecallStudyConfig) -> dict[str, float]:
    """Mean over seeds and requests of [S, Q], its interval over users and seeds."""
    known = ~np.isnan(values[0])
    values, user = values[:, known], np.unique(user[known], return_inverse=True)[1].ravel()
    sums = np.stack([np.bincount(user, row) for row in values])  # [S, U]
    count = np.bincount(user)
    rng = np.random.default_rng(0)
    weight = rng.multinomial(len(count), np.full(len(count), 1 / len(count)), config.resamples)
    seeds = rng.integers(0, len(values), (config.resamples, len(values)))
    by_seed = weight @ sums.T / (weight @ count)[:, None]  # [resamples, S]
    low, high = interval(np.take_along_axis(by_seed, seeds, 1).mean(1))
    return {"value": float(values.mean()), "low": low, "high": high}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(study_recall(simulate_live(LiveConfig(), 0).impressions)))
