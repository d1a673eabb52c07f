"""The leave-one-out protocol: everyone's one next item, ranked among all items not seen before."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ir_measures import R, nDCG
from numpy.typing import NDArray

from engine.data.dataset import Dataset
from engine.errors import StarsError
from engine.features import UserFeatures, encode_inputs
from engine.model.stars import Events, Stars
from engine.training.history import Past

from .metrics import per_request
from .neighbours import Neighbours

K = 10
_MEASURES = {"recall@5": R @ 5, "ndcg@5": nDCG @ 5, "recall@10": R @ 10, "ndcg@10": nDCG @ 10}
_AT_ONCE = 256


@dataclass(frozen=True)
class NextItems:
    """users: [Q] int64 user indices with an event at the cut. target: [Q] int32 its item."""

    users: NDArray[np.int64]
    target: NDArray[np.int32]


def next_items(dataset: Dataset, cut: int) -> NextItems:
    """What each user with a past did at order `cut`.

    Raises:
        StarsError: nobody did anything there, or the data has times, which hold no places.
    """
    if dataset.meta.has_time:
        raise StarsError("leave-one-out: expected events with an order, got events with a time")
    user = np.repeat(np.arange(len(dataset.user_ids)), np.diff(dataset.event_offsets))
    first = dataset.event_time[dataset.event_offsets[:-1][user]]
    at = np.flatnonzero((dataset.event_time == cut) & (first < cut))
    if not len(at):
        raise StarsError(f"leave-one-out: expected events at order {cut}, got none")
    return NextItems(user[at], dataset.event_item[at])


@torch.no_grad()
def top_items(
    model: Stars,
    past: Past,
    users: NDArray[np.int64],
    near: Neighbours,
    weights: Sequence[float] = (0.0,),
    k: int = K,
) -> list[NDArray[np.int64]]:
    """For each γ of `weights`, [Q, k] items of the highest h_next · c + γ · near, best first.

    The user's whole past is left out.

    Args:
        model: trained, in evaluation mode.
        past: histories; users: [Q] indices with at least one event in it.
        near: of the past that was trained on.
    """
    every = torch.arange(len(past.dataset.item_ids))
    rows = model.items.rows(every)
    candidates = model.items.candidates(rows)
    lists: list[list[NDArray[np.int64]]] = [[] for _ in weights]
    # Alike lengths beside one another: a batch is padded to its longest window.
    order = np.argsort(np.diff(past.offsets)[users], kind="stable")
    for start in range(0, len(users), _AT_ONCE):
        chosen = users[order[start : start + _AT_ONCE]]
        scores = _queries(model, past, chosen, rows.numpy()) @ candidates.T
        seen = [past.history(user).items.astype(np.int64) for user in chosen.tolist()]
        place = np.repeat(np.arange(len(chosen)), [len(items) for items in seen])
        scores[torch.from_numpy(place), torch.from_numpy(np.concatenate(seen))] = -torch.inf
        term = near.term(seen) if any(weights) else None
        for weight, rows_of in zip(weights, lists, strict=True):
            total = scores if term is None or not weight else scores + weight * term
            rows_of.append(total.topk(k).indices.numpy())
    back = np.argsort(order)
    return [np.concatenate(rows_of)[back] for rows_of in lists]


def _queries(
    model: Stars, past: Past, users: NDArray[np.int64], rows: NDArray[np.float32]
) -> torch.Tensor:
    """[Q, d_serve] h_next + δ at the users' next event."""
    dataset, config = past.dataset, model.config
    features = UserFeatures(dataset.user_categorical[users], dataset.user_numeric[users])
    histories = [past.history(user) for user in users.tolist()]
    arrays = encode_inputs(histories, features, rows, past.calendar, config.window, config.hop)
    inputs = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
    window, ends = inputs.pop("rows"), inputs.pop("length")[:, None]
    hidden: torch.Tensor = model.head_next(model.last(window, Events(**inputs), ends))[:, 0]
    none = torch.zeros(len(users), dtype=torch.int64)
    signals = torch.zeros(len(users), dataset.signals.shape[1])
    return hidden + model.context(none, none, none, torch.zeros(len(users)), signals)


def accuracy(
    lists: NDArray[np.int64], target: NDArray[np.int32]
) -> tuple[dict[str, float], dict[str, float]]:
    """Means of recall and NDCG at 5 and 10 over the users, and their standard errors.

    Args:
        lists: [Q, k >= 10] item indices, best first.
        target: [Q] the one right item.
    """
    values = per_request(lists, list(target[:, None]), _MEASURES)
    errors = {name: float(np.std(v) / np.sqrt(len(v))) for name, v in values.items()}
    return {name: float(np.mean(v)) for name, v in values.items()}, errors
