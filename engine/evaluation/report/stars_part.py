"""One training of STARS for the report, and what the path that serves it answers."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.compile.export import export
from engine.config import Config
from engine.data.dataset import Dataset
from engine.evaluation.evaluate import STRATEGIES, K, answered, recommended
from engine.evaluation.protocol import Task, next_session
from engine.pipeline import export_run, load_model, serving_lambda, train_run
from engine.serving.options import Options
from engine.serving.recommender import Recommender
from engine.serving.request import Request
from engine.training.history import Past, past

from .config import FULL, PRIOR, PRIOR_LAMBDA, ReportConfig
from .drift import drift
from .setting import Setting, cold_items

Lists = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class StarsPart:
    """A training: of which variant, before which cut (0 is the final one), by which seed.

    Attributes:
        slices: what is asked besides the lists: of `SLICES`.
    """

    cut: int
    variant: str = FULL
    seed: int = 0
    slices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the part and its folder."""
        return f"stars.{self.variant}.cut{self.cut}.seed{self.seed}"


def stars_part(setting: Setting, config: ReportConfig, part: StarsPart) -> dict[str, Any]:
    """Trains as `stars train` does, exports, and asks.

    Returns:
        lists: name -> [Q, 10] of the cut's task, `cold` of its own; lambda_serve; training_minutes;
        weeks of `drift`.
    """
    dataset, threads = setting.dataset(), torch.get_num_threads()
    cut, end = setting.cuts[part.cut]
    own, folder = config.variant(part.variant, part.seed), setting.work / part.name
    started = time.monotonic()
    train_run(dataset, cut, own, folder / "run", quiet=True)
    minutes = (time.monotonic() - started) / 60
    chosen = PRIOR_LAMBDA if part.variant == PRIOR else serving_lambda(folder / "run")
    export_run(dataset, folder / "run", cut, folder / "bundle", chosen)
    recommender = Recommender(Bundle.open(folder / "bundle"), Options(threads))
    task, history = next_session(dataset, cut, end), past(dataset, cut, 1.0, own.train.repeat_types)
    lists: Lists = {}
    for strategy in STRATEGIES:
        lists[strategy] = recommended(recommender, dataset, task, strategy)
        new = recommended(recommender, dataset, task, strategy, repeats="exclude")
        lists[f"discovery_{strategy}"] = new
    for name in part.slices:
        if name in SLICES:
            lists |= dict(SLICES[name](recommender, history, task, setting, config))
    recommender.set_lambda(chosen)
    found: dict[str, Any] = {"lambda_serve": chosen, "training_minutes": round(minutes, 2)}
    if "cold" in part.slices:
        lists["cold"] = _cold(dataset, own, folder, cut, task, threads)
    if "drift" in part.slices:
        model = load_model(dataset, own, folder / "run")
        found["drift"] = drift(model, dataset, cut, config.drift_weeks, config.drift_users)
    return found | {"lists": {name: rows.tolist() for name, rows in lists.items()}}


def _sweep(
    recommender: Recommender, history: Past, task: Task, setting: Setting, config: ReportConfig
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """h_next's lists at each λ_serve, and all lists at the ablation's."""
    for value in config.lambdas:
        recommender.set_lambda(value)
        yield f"lambda_{value:g}", recommended(recommender, history.dataset, task, "next")
    recommender.set_lambda(PRIOR_LAMBDA)
    for strategy in STRATEGIES:
        rows = recommended(recommender, history.dataset, task, strategy)
        yield f"prior_served_{strategy}", rows


def _candidates(
    recommender: Recommender, history: Past, task: Task, setting: Setting, config: ReportConfig
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """The ten best of each candidate set."""
    for size, sets in setting.candidate_sets(task.cut).items():
        asked = of_requests(task, sets.request)
        rows = recommended(recommender, history.dataset, asked, "next", candidates=sets.items)
        yield f"candidates_{size}", rows


def _newcomers(
    recommender: Recommender, history: Past, task: Task, setting: Setting, config: ReportConfig
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Everyone as a new household: known by the last sessions alone, without a name."""
    for n in config.known_sessions:
        requests = _of_last_sessions(history, task, n)
        yield f"newcomers_{n}", answered(recommender, history.dataset, requests)


# By the name in a part's `slices`; `cold` and `drift` have their own models.
SLICES = {"sweep": _sweep, "candidates": _candidates, "newcomers": _newcomers}


def _of_last_sessions(history: Past, task: Task, n: int) -> Sequence[Request]:
    requests = []
    for user, time_ in zip(task.users.tolist(), task.times.tolist(), strict=True):
        starts = history.session_start[user]
        events = history.history(user)
        first = int(starts[max(len(starts) - 1 - n, 0)])
        item_ids = history.dataset.item_ids[events.items[first:]]
        requests.append(
            Request(
                None, item_ids, events.types[first:].astype(np.int32), events.times[first:], None,
                K, "round_robin", "allow", None, time_, False,
            )
        )  # fmt: skip
    return requests


def _cold(
    dataset: Dataset, config: Config, folder: Path, cut: int, task: Task, threads: int
) -> NDArray[np.int64]:
    """The ten best of the items that the trial model, which ends 28 days before, never saw."""
    cold, bought = cold_items(dataset, cut, task)
    asked = of_requests(task, np.array(sorted(bought), np.int64))
    model = load_model(dataset, config, folder / "run" / "selection")
    export(model, dataset, config, cut, folder / "cold", 0.0, threads)
    recommender = Recommender(Bundle.open(folder / "cold"), Options(threads))
    only = [cold] * len(asked.users)
    return recommended(recommender, dataset, asked, "next", repeats="exclude", candidates=only)


def of_requests(task: Task, places: NDArray[np.int64]) -> Task:
    """Some of a task's requests."""
    targets = [task.targets[place] for place in places.tolist()]
    return Task(task.cut, task.users[places], task.times[places], targets)
