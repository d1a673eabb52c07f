"""What each part of SARM adds to a ranker: a ladder of models on one log, the gate's ablation.

Every model is trained online in order of time with the same features, batches, passes and seeds;
the last part of the log is asked before it is learned from. Intervals draw users and seeds.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from engine.data.text import Embedder, MiniLmEmbedder

from ..auc import F64, Ids, Labels, auc, bootstrap, gauc, interval
from ..data.impressions import Impressions
from ..data.past import with_past
from ..features import FeatureConfig, Features, fit
from .anchors import author_column, checked_anchors, in_force
from .config import SarmConfig, SarmStudyConfig
from .content import Contents
from .model import Sarm
from .online import run
from .rungs import GATE, LADDER, Rung
from .stream import CLICK, Stream, stream

_ROOMS = ("item_id", "live_name_id")  # of one evening: no row of the last part has met them


@dataclass(frozen=True)
class Prepared:
    """A log as every rung sees it; the rows from `first` on are asked."""

    stream: Stream
    features: Features
    contents: Contents
    first: int
    labels: Labels  # [n, M] of the rows asked, as the next three
    request: Ids
    user: Ids
    exposures: Ids  # of the author in the first part


def study(
    log: Impressions,
    anchors: pl.DataFrame,
    config: SarmStudyConfig | None = None,
    *,
    embedder: Embedder | None = None,
) -> dict[str, Any]:
    """`ladder`, `gate` and `low_exposure`: AUC and GAUC per objective, and paired differences.

    Args:
        log: impressions with an objective `click`.
        anchors: the anchors of its authors (`streamer_id` where the log has it, else `item_id`).
        embedder: of the rung with a frozen embedding; None is MiniLM.
    """
    config = config or SarmStudyConfig()
    prepared = prepare(log, anchors, config, embedder or MiniLmEmbedder())
    rungs = list(dict.fromkeys((*LADDER, *GATE)))
    scores = {rung.name: _trained(rung, prepared, config) for rung in rungs}
    draws = {name: _draws(runs, prepared, config.resamples) for name, runs in scores.items()}
    objectives = prepared.features.objectives
    rows = {rung.name: _row(rung, scores, draws, prepared) for rung in rungs}
    return {
        "ladder": [rows[rung.name] for rung in LADDER],
        "gate": [_beside(rung, rows, draws, objectives) for rung in GATE],
        "low_exposure": _low_exposure(scores, prepared, config),
        "rows": [prepared.first, len(prepared.stream) - prepared.first],
        "anchors": len(prepared.stream.anchors),
        "objectives": list(objectives),
        "config": config.model_dump(),
    }


def prepare(
    log: Impressions, anchors: pl.DataFrame, config: SarmStudyConfig, embedder: Embedder
) -> Prepared:
    """Splits by time, describes authors' pasts, keeps the anchors that some row is shown under."""
    author = author_column(log)
    start, end = (int(t) for t in np.quantile(log.time, (config.since, config.until)))
    log = _with_past_of(log, author).between(start, end + 1)
    cut = int(np.quantile(log.time, config.train_share))
    seen, asked = log.between(start, cut), log.between(cut, end + 1)
    whole = Impressions(pl.concat([seen.frame, asked.frame]))
    first = len(seen)
    rooms = [c for c in _ROOMS if c in ("item_id", *log.features) and c != author]
    features = fit(seen, FeatureConfig(leave_out=tuple(rooms)))
    anchors = checked_anchors(anchors, "anchors")
    ids = whole.frame[author].to_numpy().astype(np.int64)
    held = in_force(anchors, ids, whole.time)
    anchors = anchors[np.unique(held[held >= 0])]
    flow = stream(whole, anchors, features, config.base.ranker.history)
    known = anchors.filter(pl.col("time") < cut)
    counts = np.bincount(flow.author[:first], minlength=len(flow.authors))
    return Prepared(
        flow, features,
        Contents.of(anchors, known, len(flow.authors), config.base.encoder, embedder),
        first, whole.labels[first:], _dense(whole.request[first:]), _dense(whole.user[first:]),
        counts[flow.author[first:]],
    )  # fmt: skip


def _trained(rung: Rung, prepared: Prepared, config: SarmStudyConfig) -> list[F64]:
    """Probabilities [n, M] of the rows asked, one array a seed."""
    found = []
    for seed in range(config.seeds):
        torch.manual_seed(seed)
        settings = rung.of(config.base)
        model = make(settings, prepared)
        found.append(run(settings, prepared.stream, model, prepared.first)[0])
    return found


def make(config: SarmConfig, prepared: Prepared) -> Sarm:
    """An untrained model of a prepared log; its first answer is each objective's rate."""
    flow = prepared.stream
    author = prepared.features.categories.index(author_of(prepared.features))
    return Sarm(
        config, prepared.features, prepared.contents, author, flow.labels[: prepared.first].mean(0)
    )


def author_of(features: Features) -> str:
    """The category that names authors."""
    return "streamer_id" if "streamer_id" in features.categories else "item_id"


def _with_past_of(log: Impressions, author: str) -> Impressions:
    """`with_past` of users and authors: rooms last an evening, and have no past."""
    if author == "item_id":
        return with_past(log)
    by_author = log.frame.with_columns(pl.col("item_id").alias("room"), item_id=pl.col(author))
    return Impressions(
        with_past(Impressions(by_author)).frame.with_columns(item_id="room").drop("room")
    )


def _draws(runs: list[F64], prepared: Prepared, resamples: int) -> dict[str, F64]:
    """AUC and GAUC of resampled users and seeds, [resamples, M] each.

    One objective's score orders for that objective; the same draws for every rung.
    """
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(runs), (resamples, len(runs)))
    found = {}
    for name, grouped in (("auc", False), ("gauc", True)):
        columns = []
        for m in range(prepared.labels.shape[1]):
            values = bootstrap(
                np.stack([run[:, m] for run in runs]), prepared.labels[:, [m]], prepared.request,
                grouped=grouped, unit=prepared.user, resamples=resamples,
            )[:, :, 0]  # fmt: skip
            columns.append(np.take_along_axis(values, drawn, 1).mean(1))
        found[name] = np.stack(columns, 1)
    return found


def _point(runs: list[F64], labels: Labels, request: Ids) -> dict[str, F64]:
    """Mean over seeds of AUC and GAUC, [M] each."""
    one = [auc(run[:, m], labels[:, [m]])[0] for run in runs for m in range(labels.shape[1])]
    two = [
        gauc(run[:, m], labels[:, [m]], request).mean[0]
        for run in runs
        for m in range(labels.shape[1])
    ]
    return {
        "auc": np.reshape(one, (len(runs), -1)).mean(0),
        "gauc": np.reshape(two, (len(runs), -1)).mean(0),
    }


def _row(
    rung: Rung,
    scores: dict[str, list[F64]],
    draws: dict[str, dict[str, F64]],
    prepared: Prepared,
) -> dict[str, Any]:
    """A rung's figures, and its differences to base, frozen embedding and the rung before."""
    point = _point(scores[rung.name], prepared.labels, prepared.request)
    objectives = prepared.features.objectives
    row: dict[str, Any] = {"rung": rung.name, "adds": rung.adds}
    for metric, values in point.items():
        row[metric] = {
            name: {"value": float(v), "ci": interval(draws[rung.name][metric][:, m])}
            for m, (name, v) in enumerate(zip(objectives, values, strict=True))
        }
        row[metric]["mean"] = {
            "value": float(values.mean()), "ci": interval(draws[rung.name][metric].mean(1))
        }  # fmt: skip
    for name in ("base", "frozen", rung.after):
        if name and name != rung.name and name in scores:
            other = _point(scores[name], prepared.labels, prepared.request)
            row[f"minus_{name}"] = {
                metric: _differences(
                    point[metric] - other[metric],
                    draws[rung.name][metric] - draws[name][metric],
                    objectives,
                )
                for metric in point
            }
    return row


def _beside(
    rung: Rung,
    rows: dict[str, dict[str, Any]],
    draws: dict[str, dict[str, F64]],
    objectives: tuple[str, ...],
) -> dict[str, Any]:
    """The gate's ablation: each variant, and what the gate gains on it."""
    row = {key: rows[rung.name][key] for key in ("rung", "adds", "auc", "gauc")}
    if rung.name != "full":
        row["full_minus"] = {}
        for metric in ("auc", "gauc"):
            names = (*objectives, "mean")
            gap = np.array(
                [rows["full"][metric][k]["value"] - row[metric][k]["value"] for k in names[:-1]]
            )
            row["full_minus"][metric] = _differences(
                gap, draws["full"][metric] - draws[rung.name][metric], objectives
            )
    return row


def _differences(gap: F64, draws: F64, objectives: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Mean, low and high per objective and of their mean."""
    columns = {name: (gap[m], draws[:, m]) for m, name in enumerate(objectives)}
    columns["mean"] = (gap.mean(), draws.mean(1))
    found = {}
    for name, (value, drawn) in columns.items():
        low, high = interval(drawn)
        found[name] = {"mean": float(value), "low": low, "high": high}
    return found


def _low_exposure(
    scores: dict[str, list[F64]], prepared: Prepared, config: SarmStudyConfig
) -> list[dict[str, Any]]:
    """Click AUC of full, base and frozen by how often the author was shown in the first part."""
    bounds = [-1, *config.exposures, np.iinfo(np.int64).max]
    click = prepared.features.objectives.index(CLICK)
    found: list[dict[str, Any]] = []
    for low, high in pairwise(bounds):
        kept = (prepared.exposures > low) & (prepared.exposures <= high)
        label = prepared.labels[kept][:, [click]]
        row: dict[str, Any] = {
            "above": None if low < 0 else low,
            "up_to": high if high < bounds[-1] else None,
            "impressions": int(kept.sum()),
            "clicks": int(label.sum()),
        }
        if 0 < row["clicks"] < row["impressions"]:
            row |= _bucket(scores, kept, label, prepared, click, config.resamples)
        found.append(row)
    return found


def _bucket(
    scores: dict[str, list[F64]],
    kept: NDArray[np.bool_],
    label: Labels,
    prepared: Prepared,
    click: int,
    resamples: int,
) -> dict[str, Any]:
    """AUC on some of the rows, and what `full` gains there on `base` and `frozen`."""
    request, user = _dense(prepared.request[kept]), _dense(prepared.user[kept])
    seeds = len(scores["full"])
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, seeds, (resamples, seeds))
    value, draws = {}, {}
    for name in ("base", "frozen", "full"):
        columns = np.stack([run[kept, click] for run in scores[name]])
        value[name] = float(np.mean([auc(row, label)[0] for row in columns]))
        values = bootstrap(
            columns, label, request, grouped=False, unit=user, resamples=resamples
        )[:, :, 0]  # fmt: skip
        draws[name] = np.take_along_axis(values, drawn, 1).mean(1)
    row: dict[str, Any] = {"auc": value}
    for name in ("base", "frozen"):
        low, high = interval(draws["full"] - draws[name])
        row[f"minus_{name}"] = {"mean": value["full"] - value[name], "low": low, "high": high}
    return row


def _dense(ids: Ids) -> Ids:
    return np.unique(ids, return_inverse=True)[1]
