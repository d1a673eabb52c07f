"""Evaluates a bundle by the path that serves it, beside the counting baselines."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.data.dataset import Dataset
from engine.errors import BundleError, StarsError
from engine.serving.options import Options
from engine.serving.recommender import Recommender
from engine.serving.request import Repeats, Reply, Request, Stage, Strategy
from engine.training.history import Past, past

from . import baselines, metrics
from .protocol import Task, next_session

STRATEGIES: tuple[Strategy, ...] = ("next", "general", "round_robin")
STAGES: tuple[Stage, ...] = ("rank", "page")
COMPARED = ("next", "round_robin")
K = 10
LAMBDAS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
_AT_ONCE = 64


@dataclass(frozen=True)
class Evaluation:
    """Measures of every method over the same requests.

    Attributes:
        metrics: method -> measure -> mean.
        per_request: method -> measure -> [Q].
        lists: method -> [Q, 10] item indices.
    """

    metrics: dict[str, dict[str, float]]
    per_request: dict[str, dict[str, NDArray[np.float64]]] = field(repr=False)
    lists: dict[str, NDArray[np.int64]] = field(repr=False)

    def comparison(self) -> dict[str, dict[str, dict[str, float]]]:
        """Paired differences of `COMPARED` against personal recency, with their intervals."""
        theirs = self.per_request["personal_recency"]
        return {
            f"{ours}_minus_personal_recency": {
                name: metrics.paired_difference(self.per_request[ours][name], theirs[name])
                for name in ("recall@10", "ndcg@10")
            }
            for ours in COMPARED
        }


def evaluate(bundle: Bundle, dataset: Dataset, end: int, threads: int = 1) -> Evaluation:
    """The bundle's lists for each user's first session in [cut, end), and the baselines'.

    With a ranker also what it makes of the round robin: `rank`, and `page` of default diversity.

    Args:
        bundle: its cut divides the past from the answers.
        dataset: that the bundle was made of.
        end: unix seconds.
        threads: of search and encoder.
    Raises:
        BundleError: the bundle was made of another dataset.
        StarsError: nobody has a session in the window.
    """
    manifest = bundle.manifest
    if manifest.dataset.fingerprint != dataset.meta.fingerprint:
        raise BundleError(
            f"{bundle.folder}: expected a bundle of dataset {dataset.meta.fingerprint[:12]}, "
            f"got one of {manifest.dataset.fingerprint[:12]}"
        )
    history = past(dataset, manifest.cut, 1.0, tuple(manifest.repeat_types))
    task = _task(dataset, manifest.cut, end)
    recommender = Recommender(bundle, Options(threads))
    lists: dict[str, NDArray[np.int64]] = {
        name: recommended(recommender, dataset, task, name) for name in STRATEGIES
    }
    if recommender.funnel is not None:
        lists |= {stage: recommended(recommender, dataset, task, stage=stage) for stage in STAGES}
    lists |= baseline_lists(history, task)
    values = {name: metrics.per_request(rows, task.targets) for name, rows in lists.items()}
    n_catalogue = len(history.catalogue)
    return Evaluation(
        {name: metrics.summary(values[name], lists[name], n_catalogue) for name in lists},
        values,
        lists,
    )


def _task(dataset: Dataset, cut: int, end: int) -> Task:
    """The requests of [cut, end). Raises StarsError where nobody came back in it."""
    task = next_session(dataset, cut, end)
    if not len(task.users):
        raise StarsError(
            f"evaluation: expected a user with a session in [{cut}, {end}) and events before it, "
            "got none: leave more days out of training and export (--until)"
        )
    return task


def baseline_lists(history: Past, task: Task) -> dict[str, NDArray[np.int64]]:
    """[Q, 10] item indices of each counting baseline."""
    return {
        "popularity": baselines.popularity(history, task, K),
        "personal_frequency": baselines.personal(history, task, K, None),
        "personal_recency": baselines.personal(history, task, K, baselines.HALF_LIFE_DAYS),
    }


def recommended(
    recommender: Recommender,
    dataset: Dataset,
    task: Task,
    strategy: Strategy = "round_robin",
    stage: Stage = "retrieve",
    repeats: Repeats = "allow",
    candidates: Sequence[NDArray[np.int64]] | None = None,
) -> NDArray[np.int64]:
    """[Q, 10] item indices that the request path answers to `requests_of` the task."""
    asked = requests_of(dataset, task, strategy, stage, repeats, candidates)
    return answered(recommender, dataset, asked)


def requests_of(
    dataset: Dataset,
    task: Task,
    strategy: Strategy = "round_robin",
    stage: Stage = "retrieve",
    repeats: Repeats = "allow",
    candidates: Sequence[NDArray[np.int64]] | None = None,
) -> list[Request]:
    """The task's requests: stored users, at its times.

    Args:
        candidates: of each request the items, by index, that alone may be answered; None for all.
    """
    empty = np.zeros(0, np.int64)
    names = [name.decode() for name in dataset.user_ids[task.users].tolist()]
    only: list[NDArray[np.int64] | None] = [None] * len(names)
    if candidates is not None:
        only = [dataset.item_ids[own] for own in candidates]
    return [
        Request(
            name, empty, None, None, None, K, strategy, repeats, None, time, False,
            stage=stage, candidates=own,
        )
        for name, time, own in zip(names, task.times.tolist(), only, strict=True)
    ]  # fmt: skip


def answered(
    recommender: Recommender, dataset: Dataset, requests: Sequence[Request]
) -> NDArray[np.int64]:
    """[Q, 10] item indices of the answers, -1 pads. Raises StarsError where one has none."""
    rows = []
    for start in range(0, len(requests), _AT_ONCE):
        for reply in recommender.recommend(requests[start : start + _AT_ONCE]):
            if not isinstance(reply, Reply):
                raise StarsError(f"evaluation: expected an answer to every request: {reply}")
            rows.append(reply.item_ids)
    item_ids = np.array(rows, np.int64).reshape(-1, K)
    return np.where(item_ids >= 0, np.searchsorted(dataset.item_ids, item_ids), -1)


def choose_lambda(
    bundle: Bundle, dataset: Dataset, end: int, cost: float = 0.003, threads: int = 1
) -> tuple[float, dict[float, dict[str, float]]]:
    """λ_serve: the largest that costs at most `cost` of the NDCG@10 at λ 0, for h_next.

    Args:
        bundle: of a model that saw nothing of [cut, end).
        cost: share of NDCG@10.
    Returns:
        The choice, and the measures at each λ tried, up to the first that costs more.
    """
    task = _task(dataset, bundle.manifest.cut, end)
    n_catalogue = int(bundle.items["active"].sum())
    recommender = Recommender(bundle, Options(threads))
    chosen, table = 0.0, {}
    for value in LAMBDAS:
        recommender.set_lambda(value)
        rows = recommended(recommender, dataset, task, "next")
        measures = metrics.per_request(rows, task.targets)
        table[value] = metrics.summary(measures, rows, n_catalogue)
        if table[value]["ndcg@10"] < (1 - cost) * table[LAMBDAS[0]]["ndcg@10"]:
            break
        chosen = value
    return chosen, table
