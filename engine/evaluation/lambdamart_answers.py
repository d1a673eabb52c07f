"""What one LambdaMART answers: lists of the whole catalogue, of new items, and of given sets."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.dataset import Dataset

from .candidate_sets import CandidateSets
from .lambdamart import K, best, collect, trained
from .lambdamart_config import LambdaMartConfig
from .lambdamart_features import Candidates, candidates
from .lambdamart_promotions import Promotions
from .lambdamart_shop import Events, Shop
from .protocol import Task

# Of new items the history gives none: a wider pool finds more of them, .0180 against .0138 of R@10
# on the validation cut; a still wider one (500, 50, 5) .0177.
_NEW_POOL = {"popular": 200, "subclasses": 30, "per_subclass": 2}


@dataclass(frozen=True)
class LambdaMartAnswers:
    """Item indices, best first, -1 pads.

    Attributes:
        lists: [Q, 10] of the whole catalogue.
        discovery: [Q, 10] of what the user's events before the cut do not hold, from a wider pool.
        sets: name -> [R, 10] of the given sets.
        info: minutes, examples (candidates trained on), importance (feature -> gain).
    """

    lists: NDArray[np.int64]
    discovery: NDArray[np.int64]
    sets: dict[str, NDArray[np.int64]]
    info: dict[str, Any]


def lambdamart_answers(
    dataset: Dataset,
    task: Task,
    config: LambdaMartConfig,
    sets: Mapping[str, CandidateSets],
    *,
    promotions: Promotions | None,
    threads: int,
) -> LambdaMartAnswers:
    """Trains once on what came before the task's cut, and asks for all that is compared.

    Args:
        dataset: of the task; it has times.
        task: requests; their targets are not read.
        sets: of the task's requests, that the same trees order.
        promotions: what was announced, known before its week; None leaves these features out.
        threads: of LightGBM.
    Raises:
        ConfigError: there is nothing to learn from before the cut.
    """
    began = time.perf_counter()
    events = Events(dataset, config.event_types)
    trees, info = trained(dataset, events, task.cut, config, promotions, threads)

    def ordered(found: Candidates) -> NDArray[np.int64]:
        if not len(found.items):
            return np.full((len(found.sizes), K), -1, np.int64)
        return best(found, np.asarray(trees.predict(found.rows, num_threads=threads)))

    asked = collect(dataset, events, task, config, promotions)
    wider = collect(dataset, events, task, config.model_copy(update=_NEW_POOL), promotions)
    lists, new = ordered(asked), ordered(without_history(wider, dataset, task.cut))
    info["minutes"] = (time.perf_counter() - began) / 60
    of_sets = {
        name: ordered(given_candidates(dataset, events, task, own, promotions))
        for name, own in sets.items()
    }
    return LambdaMartAnswers(lists, new, of_sets, info)


def without_history(found: Candidates, dataset: Dataset, cut: int) -> Candidates:
    """The candidates that are in none of their user's events before `cut`."""
    n_items = len(dataset.item_ids)
    user = np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.event_offsets))
    before = dataset.event_time < cut
    had = np.unique(user[before] * n_items + dataset.event_item[before])
    place = np.repeat(np.arange(len(found.sizes)), found.sizes)
    new = ~np.isin(found.users[place] * n_items + found.items, had)
    sizes = np.bincount(place[new], minlength=len(found.sizes))
    return replace(found, sizes=sizes, items=found.items[new], rows=found.rows[new])


def given_candidates(
    dataset: Dataset,
    events: Events,
    task: Task,
    sets: CandidateSets,
    promotions: Promotions | None,
) -> Candidates:
    """The items of each set, with the features that `collect` gives them."""
    shop = Shop.of(events, task.cut, 0, 1)
    users, times = task.users[sets.request], task.times[sets.request]
    items: list[NDArray[np.int32]] = []
    rows: list[NDArray[np.float32]] = []
    for place, own in enumerate(sets.items):
        # The shop's best sellers are everyone's candidates: here they are one request's.
        here = replace(shop, popular=own.astype(np.int32))
        one = slice(place, place + 1)
        found = candidates(
            events, here, dataset.user_categorical, task.cut, users[one], times[one], 0, 0
        )
        items.append(found.items)
        rows.append(found.rows)
    sizes = np.array([len(own) for own in items], np.int64)
    all_items = np.concatenate([np.zeros(0, np.int32), *items])
    if not rows:
        return Candidates(users, times, sizes, all_items, np.zeros((0, 0), np.float32))
    table = np.concatenate(rows)
    if promotions is not None:
        announced = promotions.features(task.cut, events.clock, users, times, sizes, all_items)
        table = np.concatenate([table, announced], axis=1)
    return Candidates(users, times, sizes, all_items, table)
