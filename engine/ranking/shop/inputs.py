"""What the ranker reads of a request and its candidates: the same code in training and serving."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.catalogue.catalogue import Catalogue
from engine.compiled import compiled
from engine.features import Calendar
from engine.repeats import FEATURES as REPEAT_FEATURES
from engine.repeats import RepeatItemStatistics

if TYPE_CHECKING:
    from engine.serving.query import Query

Floats = NDArray[np.float32]

FEATURES = (
    "logit_next", "logit_general", "is_repeat", *REPEAT_FEATURES,
    "log_prior", "log_count", "log_buyers", "share_again",
)  # fmt: skip
PROFILE = ("log_events", "log_bought_items", "log_gap_days")
_PRIOR = 5.0  # buyers that the catalogue's mean counts as


class Inputs(NamedTuple):
    """B requests of up to N candidates each; rows past a request's own are zeros.

    Attributes:
        vectors: [B, 2, D] float32, h_next and h_gen with δ.
        codes: [B, C + 2] int64: the user's categories, hour and weekday.
        profile: [B, P] float32 of PROFILE, the user's numbers, and whether each is known.
        items: [B, N, D] float32 candidate vectors.
        subclass: [B, N] int64.
        features: [B, N, F] float32 of FEATURES.
    """

    vectors: Floats
    codes: NDArray[np.int64]
    profile: Floats
    items: Floats
    subclass: NDArray[np.int64]
    features: Floats


class ItemSide:
    """What is known of the items before anybody asks.

    Args:
        catalogue: of the items.
        bias: [N] the prior in the scores.
        calendar: of the shop.
    """

    def __init__(self, catalogue: Catalogue, bias: Floats, calendar: Calendar) -> None:
        self._catalogue, self._bias, self._calendar = catalogue, bias, calendar
        self._features = _item_features(catalogue.statistics, catalogue.log_p)

    def inputs(self, queries: Sequence["Query"], places: Sequence[NDArray[np.int64]]) -> Inputs:
        """What the ranker reads of at least one query, each with the items at `places` [n] as its
        candidates; queries have vectors, repeat logits and repeat features."""
        catalogue = self._catalogue
        b, n, dim = len(queries), max(map(len, places)), catalogue.candidates.shape[1]
        items = np.zeros((b, n, dim), np.float32)
        subclass = np.zeros((b, n), np.int64)
        features = np.zeros((b, n, len(FEATURES)), np.float32)
        for row, (query, own) in enumerate(zip(queries, places, strict=True)):
            _fill(
                features[row], items[row], subclass[row], own, query.vectors, query.state.item,
                query.repeat_logits, _of_repeats(query), catalogue.candidates, self._bias,
                self._features, catalogue.statistics.subclass,
            )  # fmt: skip
        return Inputs(
            vectors=np.stack([query.vectors for query in queries]),
            codes=np.array([_codes(query) for query in queries], np.int64),
            profile=np.stack([_profile(query, self._calendar) for query in queries]),
            items=items,
            subclass=subclass,
            features=features,
        )


def _of_repeats(query: "Query") -> Floats:
    """[m, F] the REPEAT_FEATURES; a shop's promotions, which stand behind them, are not the
    ranker's."""
    return np.ascontiguousarray(query.repeat_features[:, : len(REPEAT_FEATURES)])


def _item_features(statistics: RepeatItemStatistics, log_p: Floats) -> Floats:
    """[N, 4] the last FEATURES, of every item of a catalogue."""
    rate = float(statistics.again.sum()) / max(float(statistics.buyers.sum()), 1)
    again = (statistics.again + _PRIOR * rate) / (statistics.buyers + _PRIOR)
    columns = (log_p, np.log1p(statistics.count), np.log1p(statistics.buyers), again)
    return np.stack(columns, axis=1, dtype=np.float32)


def _codes(query: "Query") -> list[int]:
    return [*query.categorical.tolist(), query.moment.hour, query.moment.weekday]


def _profile(query: "Query", calendar: Calendar) -> Floats:
    history, numeric = query.history, query.numeric
    known = np.isfinite(numeric)
    last = history.times[-1] if len(history.times) else query.time
    gap = calendar.gap_days(np.array([query.time]), np.array([last]))[0]
    counts = np.log1p(np.array([len(history.items), len(query.state.item), gap]))
    profile: Floats = np.concatenate([counts, np.where(known, numeric, 0), known], dtype=np.float32)
    return profile


@compiled
def _fill(
    features: Floats,
    rows: Floats,
    subclass: NDArray[np.int64],
    places: NDArray[np.int64],
    vectors: Floats,
    bought: NDArray[np.int32],
    repeat_logits: Floats,
    repeat_features: Floats,
    candidates: Floats,
    bias: Floats,
    of_items: Floats,
    subclasses: NDArray[np.int32],
) -> None:
    """Fills one request's features [n, F], item rows [n, D] and subclasses [n]."""
    repeats = repeat_features.shape[1]
    for row in range(len(places)):
        item = places[row]
        rows[row] = candidates[item]
        subclass[row] = subclasses[item]
        features[row, 3 + repeats :] = of_items[item]
        place = np.searchsorted(bought, item)  # the items of a state ascend
        if place < len(bought) and bought[place] == item:
            features[row, 0], features[row, 1] = repeat_logits[0, place], repeat_logits[1, place]
            features[row, 2] = 1
            features[row, 3 : 3 + repeats] = repeat_features[place]
            continue
        for head in range(2):
            dot = np.float32(0)
            for i in range(candidates.shape[1]):
                dot += vectors[head, i] * candidates[item, i]
            features[row, head] = dot + bias[item]
