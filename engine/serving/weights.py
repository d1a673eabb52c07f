"""The small weights that the request path applies itself, in numpy."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.compiled import compiled
from engine.data.clock import Clock
from engine.features import Calendar
from engine.manifest import Manifest

Floats = NDArray[np.float32]
_WHOLE = ("first_day", "n_categorical", "n_numeric")


@dataclass(frozen=True)
class RequestWeights:
    """Context offset and repeat network, with everything folded that folds.

    Attributes:
        context_hour [24, D], context_weekday [7, D], context_week [53, D]: tables times W_ctx.
        context_gap [D], context_signals [S, D]: the other rows of W_ctx.
        repeat_in [F, H], repeat_in_bias [H]: first layer, standardisation folded in.
        repeat_middle [H, H], repeat_middle_bias [H], repeat_out [H, 2], repeat_out_bias [2].
        scale [2]: a, the scale of a bought item's dot product, for h_next and h_gen.
        discovery [2, F]: of never-bought items' features, for either vector (discovery.py).
        signals [days, S]: standardised signals known beforehand, from local day `first_day`.
        n_categorical, n_numeric: user features.
    """

    context_hour: Floats
    context_weekday: Floats
    context_week: Floats
    context_gap: Floats
    context_signals: Floats
    repeat_in: Floats
    repeat_in_bias: Floats
    repeat_middle: Floats
    repeat_middle_bias: Floats
    repeat_out: Floats
    repeat_out_bias: Floats
    scale: Floats
    discovery: Floats
    signals: Floats
    first_day: int
    n_categorical: int
    n_numeric: int

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> "RequestWeights":
        """From the bundle's arrays; whole numbers are stored as [1] int64."""
        values: dict[str, Any] = dict(arrays)
        return cls(**values | {name: int(arrays[name][0]) for name in _WHOLE})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As the bundle stores them."""
        return {f.name: np.atleast_1d(getattr(self, f.name)) for f in fields(self)}

    @property
    def discovers(self) -> bool:
        """Whether never-bought items are ordered by more than the vectors."""
        return bool(self.discovery[:, 1:].any() or (self.discovery[:, 0] != 1).any())

    def calendar(self, manifest: Manifest) -> Calendar:
        """What is known beforehand about a moment, in the bundle's shop."""
        return Calendar(Clock(manifest.timezone), manifest.has_time, self.first_day, self.signals)

    def context(self, moments: NDArray[np.int64], gap_days: Floats, signals: Floats) -> Floats:
        """δ [P, D] of requests.

        Args:
            moments: [P, 3] hour, weekday and week.
            gap_days: [P] days since the last event.
            signals: [P, S] standardised.
        """
        delta = np.empty((len(moments), self.context_gap.shape[0]), np.float32)
        tables = self.context_hour, self.context_weekday, self.context_week
        _context(delta, moments, gap_days, signals, tables, self.context_gap, self.context_signals)
        return delta

    def repeat_scores(self, features: Floats) -> Floats:
        """r [n, 2] of repeat features [n, F], for h_next and h_gen."""
        x = features @ self.repeat_in
        x += self.repeat_in_bias
        x = np.maximum(x, 0, out=x) @ self.repeat_middle
        x += self.repeat_middle_bias
        scores: Floats = np.maximum(x, 0, out=x) @ self.repeat_out
        scores += self.repeat_out_bias
        return scores

    def repeat_logits(
        self,
        scores: Floats,
        items: NDArray[np.int32],
        vectors: Floats,
        candidates: Floats,
        bias: Floats,
    ) -> Floats:
        """a h·c + b + r [2, m] of bought items [m], their scores r [m, 2] and vectors [2, D]."""
        return _logits(scores, self.scale, vectors, items, candidates, bias)


@compiled
def _context(
    delta: Floats,
    moments: NDArray[np.int64],
    gap_days: Floats,
    signals: Floats,
    tables: tuple[Floats, Floats, Floats],
    gap: Floats,
    by_signal: Floats,
) -> None:
    """Fills δ [P, D]."""
    by_hour, by_weekday, by_week = tables
    for row in range(len(delta)):
        hour, weekday, week = moments[row, 0], moments[row, 1], moments[row, 2]
        log_gap = np.float32(np.log1p(gap_days[row]))
        for i in range(delta.shape[1]):
            value = by_hour[hour, i] + by_weekday[weekday, i] + by_week[week, i] + log_gap * gap[i]
            for signal in range(signals.shape[1]):
                value += signals[row, signal] * by_signal[signal, i]
            delta[row, i] = value


@compiled
def _logits(
    scores: Floats,
    scale: Floats,
    vectors: Floats,
    items: NDArray[np.int32],
    candidates: Floats,
    bias: Floats,
) -> Floats:
    """[2, m] scores.T + scale · vectors · candidates[items] + bias[items]."""
    logits = np.empty((len(vectors), len(items)), np.float32)
    for place in range(len(items)):
        row = candidates[items[place]]
        for head in range(len(vectors)):
            dot = np.float32(0)
            for i in range(len(row)):
                dot += vectors[head, i] * row[i]
            logits[head, place] = scores[place, head] + scale[head] * dot + bias[items[place]]
    return logits
