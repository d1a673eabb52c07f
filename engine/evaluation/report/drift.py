"""How far users' vectors move from where they stood when the model was trained."""

import numpy as np
import torch
from numpy.typing import NDArray

from engine.data.dataset import Dataset
from engine.features import History, UserFeatures, encode_inputs
from engine.model.stars import Events, Stars
from engine.training.history import Past, past

_WEEK_S = 7 * 86_400
_AT_ONCE = 64


def drift(
    model: Stars, dataset: Dataset, cut: int, weeks: int, users: int, seed: int = 0
) -> list[dict[str, float]]:
    """Mean cosine of h_next and h_gen to those of the training's end, week by week.

    Args:
        model: trained on the days before `cut`.
        weeks: after it, at most to the data's end.
        users: drawn among those with events before the cut and after the last week.
    Returns:
        Rows of week, next and general, each with its standard error.
    """
    last = int(dataset.event_time.max())
    times = [cut + week * _WEEK_S for week in range(weeks + 1)]
    times = [time for time in times if time <= last]
    history = past(dataset, last + 1, 1.0, tuple(dataset.meta.event_types))
    low, high = dataset.event_offsets[:-1], dataset.event_offsets[1:]
    stays = (high > low) & (dataset.event_time[np.minimum(low, high - 1)] < cut)
    stays &= dataset.event_time[np.maximum(high - 1, 0)] >= times[-1]
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(stays))[:users]
    rows = model.items.rows(torch.arange(len(dataset.item_ids))).detach().numpy()
    began = _vectors(model, history, chosen, cut, rows)
    found = []
    for week, time in enumerate(times):
        now = _vectors(model, history, chosen, time, rows)
        row: dict[str, float] = {"week": week}
        for name, ours, theirs in zip(("next", "general"), now, began, strict=True):
            cosine = torch.cosine_similarity(ours, theirs).numpy()
            row |= {name: float(cosine.mean()), f"{name}_se": _standard_error(cosine)}
        found.append(row)
    return found


@torch.no_grad()
def _vectors(
    model: Stars, history: Past, users: NDArray[np.int64], time: int, rows: NDArray[np.float32]
) -> tuple[torch.Tensor, torch.Tensor]:
    """h_next and h_gen [U, d_serve] of the users' events before `time`."""
    dataset, config = history.dataset, model.config
    found = []
    for start in range(0, len(users), _AT_ONCE):
        own = users[start : start + _AT_ONCE]
        histories = [_before(history.history(user), time) for user in own.tolist()]
        features = UserFeatures(dataset.user_categorical[own], dataset.user_numeric[own])
        arrays = encode_inputs(
            histories, features, rows, history.calendar, config.window, config.hop
        )
        inputs = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}
        window, ends = inputs.pop("rows"), inputs.pop("length")[:, None]
        found.append(model.encode(window, Events(**inputs), ends))
    h_next, h_gen = zip(*found, strict=True)
    return torch.cat(h_next)[:, 0], torch.cat(h_gen)[:, 0]


def _before(events: History, time: int) -> History:
    n = int(np.searchsorted(events.times, time))
    return History(events.items[:n], events.times[:n], events.types[:n])


def _standard_error(values: NDArray[np.float32]) -> float:
    return float(values.std() / max(len(values), 1) ** 0.5)
