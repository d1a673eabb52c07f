"""LambdaMART (Burges 2010) by LightGBM: gradient-boosted trees over counted features, the opponent
that a shop's own team would build. It learns from first sessions after earlier cuts and ranks the
same kind of candidates in answering."""

import time
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from engine.data.clock import Clock
from engine.data.dataset import Dataset
from engine.errors import ConfigError

from . import lambdamart_features, lambdamart_promotions, lambdamart_walk
from .lambdamart_config import LambdaMartConfig
from .lambdamart_features import Candidates, candidates
from .lambdamart_promotions import Promotions
from .lambdamart_shop import Events, Shop
from .protocol import WINDOW_DAYS, Task, next_session

K = 10


def feature_names(dataset: Dataset, promotions: Promotions | None) -> list[str]:
    """Names of the columns of `collect`."""
    own, of = lambdamart_walk, lambdamart_features
    names = [*own.OWN, *own.CATEGORY, *of.ITEM, *of.USER, *dataset.meta.user_categorical]
    return names + list(lambdamart_promotions.FEATURES if promotions else ())


def collect(
    dataset: Dataset,
    events: Events,
    task: Task,
    config: LambdaMartConfig,
    promotions: Promotions | None,
) -> Candidates:
    """Candidates of the task's requests, with features of what was known before its cut and, with
    `promotions`, of what was announced for the request's week."""
    shop = Shop.of(events, task.cut, config.popular, config.per_subclass)
    found = candidates(
        events, shop, dataset.user_categorical, task.cut, task.users, task.times,
        config.own, config.subclasses,
    )  # fmt: skip
    if promotions is None:
        return found
    announced = promotions.features(
        task.cut, events.clock, task.users, task.times, found.sizes, found.items
    )
    rows = np.concatenate([found.rows, announced], axis=1)
    return Candidates(found.users, found.times, found.sizes, found.items, rows)


def labels(found: Candidates, task: Task, n_items: int) -> NDArray[np.bool_]:
    """[Σ sizes] whether each candidate is in its request's target."""
    asked = np.repeat(np.arange(len(found.sizes)), found.sizes) * n_items + found.items
    wanted = [q * n_items + target for q, target in enumerate(task.targets)]
    return np.isin(asked, np.concatenate(wanted)) if wanted else np.zeros(len(asked), np.bool_)


def example_tasks(dataset: Dataset, cut: int, config: LambdaMartConfig) -> list[Task]:
    """First sessions after each of the earlier cuts, none of which reaches `cut`.

    Raises:
        ConfigError: nobody came back in any of the windows.
    """
    clock = Clock(dataset.meta.timezone)
    day = int(clock.day(np.array([cut]))[0])
    tasks = []
    for back in range(1, config.example_cuts + 1):
        earlier = clock.start_of_day(day - back * config.step_days)
        end = min(cut, clock.start_of_day(day - back * config.step_days + WINDOW_DAYS))
        task = next_session(dataset, earlier, end)
        if len(task.users):
            tasks.append(task)
    if not tasks:
        raise ConfigError(
            f"lambdamart: expected a user with a session in the {config.example_cuts} windows "
            f"before the cut {cut} and events before it, got none"
        )
    return tasks


def train(
    examples: list[tuple[Candidates, NDArray[np.bool_]]],
    names: list[str],
    config: LambdaMartConfig,
    threads: int,
) -> lgb.Booster:
    """Trees that order each request's candidates."""
    data = lgb.Dataset(
        np.concatenate([found.rows for found, _ in examples]),
        label=np.concatenate([label for _, label in examples]).astype(np.float32),
        group=np.concatenate([found.sizes for found, _ in examples]),
        feature_name=names,
        params={"max_bin": config.max_bin, "verbose": -1, "num_threads": threads},
    )
    return lgb.train(parameters(config, threads), data, num_boost_round=config.rounds)


def parameters(config: LambdaMartConfig, threads: int) -> dict[str, Any]:
    """LightGBM's names of the configuration."""
    return {
        "objective": "lambdarank",
        "lambdarank_truncation_level": config.truncation,
        "metric": "ndcg",
        "eval_at": [K],
        "learning_rate": config.learning_rate,
        "num_leaves": config.num_leaves,
        "min_data_in_leaf": config.min_data_in_leaf,
        "feature_fraction": config.feature_fraction,
        "bagging_fraction": config.bagging_fraction,
        "bagging_freq": 1,
        "bagging_by_query": True,
        "lambda_l2": config.lambda_l2,
        "max_bin": config.max_bin,
        "seed": config.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": threads,
        "verbose": -1,
    }


def best(found: Candidates, scores: NDArray[np.float64], k: int = K) -> NDArray[np.int64]:
    """[R, k] items of each request's highest scores, ties to the earlier candidate; -1 pads."""
    lists = np.full((len(found.sizes), k), -1, np.int64)
    ends = np.cumsum(found.sizes)
    for row, (start, end) in enumerate(zip(ends - found.sizes, ends, strict=True)):
        order = np.argsort(-scores[start:end], kind="stable")[:k]
        lists[row, : len(order)] = found.items[start:end][order]
    return lists


def _check(dataset: Dataset, promotions: Promotions | None) -> None:
    if not dataset.meta.has_time:
        raise ConfigError("lambdamart: expected data with times, got data with an order alone")
    n_items = len(dataset.item_ids)
    if promotions is not None and promotions.shares.shape[2] != n_items:
        raise ConfigError(
            f"lambdamart: expected promotions of the dataset's {n_items} items, "
            f"got some of {promotions.shares.shape[2]}"
        )


def trained(
    dataset: Dataset,
    events: Events,
    cut: int,
    config: LambdaMartConfig,
    promotions: Promotions | None,
    threads: int,
) -> tuple[lgb.Booster, dict[str, Any]]:
    """Trees of what came before `cut`; examples (candidates trained on), importance (feature ->
    gain). Arguments as of `lambdamart_lists`, which says what is raised."""
    _check(dataset, promotions)
    examples = []
    for earlier in example_tasks(dataset, cut, config):
        found = collect(dataset, events, earlier, config, promotions)
        examples.append((found, labels(found, earlier, events.n_items)))
    names = feature_names(dataset, promotions)
    trees = train(examples, names, config, threads)
    gain = trees.feature_importance("gain").tolist()
    return trees, {
        "examples": sum(len(label) for _, label in examples),
        "importance": dict(sorted(zip(names, gain, strict=True), key=lambda pair: -pair[1])),
    }


def lambdamart_lists(
    dataset: Dataset,
    task: Task,
    config: LambdaMartConfig,
    *,
    promotions: Promotions | None,
    threads: int,
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Lists [Q, 10] of trees trained on what came before the task's cut; -1 pads.

    Args:
        dataset: of the task; it has times.
        task: requests; their targets are not read.
        promotions: what was announced, known before its week; None leaves these features out.
        threads: of LightGBM.
    Returns:
        The lists, and minutes, examples (candidates trained on) and importance (feature -> gain).
    Raises:
        ConfigError: the data has no time, the promotions are of another catalogue, or there is
            nothing to learn from before the cut.
    """
    began = time.perf_counter()
    events = Events(dataset, config.event_types)
    trees, info = trained(dataset, events, task.cut, config, promotions, threads)
    asked = collect(dataset, events, task, config, promotions)
    scores = np.asarray(trees.predict(asked.rows, num_threads=threads))
    return best(asked, scores), {"minutes": (time.perf_counter() - began) / 60, **info}
