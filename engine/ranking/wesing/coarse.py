"""The coarse ranker: a light score, and a cut of thousands to hundreds under quotas."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from .config import CoarseConfig

F64 = NDArray[np.float64]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class CoarseRanker:
    """a + w_0 u·v + Σ_f w_f x_f: the towers' product and a few features."""

    weight: F64  # [1 + F]
    bias: float

    def __call__(
        self, users: NDArray[np.float32], items: NDArray[np.float32], features: F64
    ) -> F64:
        """Log-odds [B, N].

        Args:
            users: [B, D].
            items: [N, D] of all requests, or [B, N, D].
            features: [B, N, F].
        """
        shared = items.ndim == 2
        product = users @ items.T if shared else np.einsum("bd,bnd->bn", users, items)
        found: F64 = self.bias + self.weight[0] * product + features @ self.weight[1:]
        return found


def fit_coarse(
    product: F64, features: F64, label: NDArray[np.bool_], ridge: float = 1.0
) -> CoarseRanker:
    """Logistic regression of a label [n] on the towers' products [n] and features [n, F].

    `ridge` times half the squared weights is added to the summed loss.

    Raises:
        ValueError: labels of one class.
    """
    if label.all() or not label.any():
        raise ValueError("fit_coarse: label: expected both classes, got one")
    x = np.column_stack([product, features])

    def loss(parameters: F64) -> tuple[float, F64]:
        weight, bias = parameters[:-1], parameters[-1]
        z = x @ weight + bias
        off = expit(z) - label
        value = np.logaddexp(0, z).sum() - z[label].sum() + ridge / 2 * weight @ weight
        return float(value), np.r_[x.T @ off + ridge * weight, off.sum()]

    found = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B").x
    return CoarseRanker(found[:-1], float(found[-1]))


def cut(
    scores: F64, items: Ids, followed: NDArray[np.bool_], category: Ids, config: CoarseConfig
) -> Ids:
    """Places [B, keep] in 0..N - 1 of what each request keeps, best first, then -1.

    No category has more than max(1, floor(share · keep)) places. The best `private` followed rooms
    that this lets in come first; the best others fill what is left. Ties go to the lower id.

    Args:
        scores: [B, N] finite.
        items: [B, N] ids, -1 where a request recalled fewer.
        followed: [B, N] whether the user follows the room's streamer.
        category: [B, N] >= 0.
    Raises:
        ValueError: shapes that differ, a score that is not finite, a category below 0.
    """
    if not scores.shape == items.shape == followed.shape == category.shape or scores.ndim != 2:
        raise ValueError(
            "cut: expected scores, items, followed and category of one shape [B, N], got"
            f" {[list(x.shape) for x in (scores, items, followed, category)]}"
        )
    there = items >= 0
    if not np.isfinite(scores[there]).all():
        raise ValueError("cut: scores: expected finite numbers of every item")
    if (category[there] < 0).any():
        raise ValueError(f"cut: category: expected 0 or more, got {category[there].min()}")
    most = max(1, int(config.share * config.keep))
    best = np.lexsort((items, -scores, ~there), axis=-1)  # [B, N]
    category = np.take_along_axis(np.where(there, category, 0), best, 1)
    followed = np.take_along_axis(there & followed, best, 1)
    there = np.take_along_axis(there, best, 1)
    within = followed & (_place_in(category, followed) < most)
    first = within & (np.cumsum(within, 1) <= config.private)
    # Those with a place count before all others of their category.
    turn = np.argsort(~first, axis=1, kind="stable")
    kept = np.take_along_axis(there, turn, 1)
    kept &= _place_in(np.take_along_axis(category, turn, 1), kept) < most
    kept &= np.cumsum(kept, 1) <= config.keep
    chosen = np.zeros_like(kept)
    np.put_along_axis(chosen, turn, kept, 1)
    places = np.argsort(~chosen, axis=1, kind="stable")[:, : config.keep]
    found = np.where(np.take_along_axis(chosen, places, 1), np.take_along_axis(best, places, 1), -1)
    return np.pad(found, ((0, 0), (0, config.keep - found.shape[1])), constant_values=-1)


def _place_in(category: Ids, counted: NDArray[np.bool_]) -> Ids:
    """[B, N]: how many counted entries of its category are to the left of each in its row."""
    rows = np.arange(len(category))[:, None]
    group = (rows * (category.max(initial=0) + 1) + category).ravel()
    order = np.argsort(group, kind="stable")
    before = np.cumsum(counted.ravel()[order]) - counted.ravel()[order]
    first = np.r_[True, np.diff(group[order]) != 0] if len(group) else np.zeros(0, np.bool_)
    start = before[first][np.cumsum(first) - 1]
    found = np.empty(len(group), np.int64)
    found[order] = before - start
    return found.reshape(category.shape)
