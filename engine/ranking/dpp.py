"""A page of relevant and different items: greedy MAP of a determinantal point process.

With L = Diag(q) S Diag(q), log det L_Y = Σ 2 log q_i + log det S_Y over the items of a page Y.
q = exp(α r), α = θ/(2(1 - θ)), weighs relevance r by θ (Chen, Zhang, Zhou 2018, §4); multiplied by
1 - θ, the objective is θ Σ r_i + (1 - θ) log det S_Y, finite for θ from 0 to 1: no exponential is
ever formed. `diversity` is 1 - θ.
"""

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

RIDGE = 1e-4


def similarity_factor(vectors: F64, ridge: float = RIDGE) -> F64:
    """V with S = V Vᵀ off the diagonal, S_ij = (1 + cos(v_i, v_j))/(2 (1 + ridge)), S_ii = 1.

    The constant coordinate makes opposite vectors the least similar, where the determinant of
    plain cosines would call them duplicates. A vector of zeros is at the cosine 0 to all.

    Args:
        vectors: [B, N, D].
    Returns:
        [B, N, D + 1], rows of length at most 1/sqrt(1 + ridge).
    """
    length = np.linalg.norm(vectors, axis=2, keepdims=True)
    unit = np.divide(vectors, length, out=np.zeros(vectors.shape), where=length > 0)
    ones = np.ones((*vectors.shape[:2], 1))
    found: F64 = np.concatenate([unit, ones], 2) / np.sqrt(2 * (1 + ridge))
    return found


def pages(
    relevance: F64,
    vectors: F64,
    size: int,
    diversity: float | F64,
    *,
    window: int | None = None,
    mask: NDArray[np.bool_] | None = None,
    ridge: float = RIDGE,
) -> NDArray[np.int64]:
    """Items chosen one by one by argmax θ r_i + (1 - θ) log d²_i, θ = 1 - diversity.

    d²_i = det S_{W + i}/det S_W over the last `window` - 1 chosen W: 1 for an item unlike all of
    them, ridge/(1 + ridge) or more for a copy. So a page longer than the vectors' dimension ends in
    the order of relevance, and nothing is divided by zero. Equal gains go to the lower index.

    Args:
        relevance: [B, N], in the units of a logit, or standardised in the request; the higher its
            spread, the less `diversity` moves.
        vectors: [B, N, D] embeddings, of any length.
        size: 1 <= size items a page.
        diversity: in [0, 1], for all or [B]; 0 is the order of relevance.
        window: 2 or more: an item need only differ from the window - 1 before it; None is the
            whole page.
        mask: [B, N] which candidates exist; None is all.
        ridge: > 0, added to S's diagonal.
    Returns:
        [B, size], -1 where candidates ran out.
    Raises:
        ValueError: a shape or a value out of these; names it, what was expected and what came.
    Exactness: fp64; equal to the greedy by determinants up to ties within rounding.
    """
    n_requests, n_items = relevance.shape
    theta = 1 - np.broadcast_to(np.asarray(diversity, np.float64), (n_requests,))[:, None]
    mask = np.ones(relevance.shape, bool) if mask is None else mask
    _check(relevance, vectors, size, theta, window, mask, ridge)
    factor = similarity_factor(np.where(mask[:, :, None], vectors, 0.0), ridge)
    merit = np.where(mask, theta * np.where(mask, relevance, 0.0), -np.inf)
    chosen = np.full((n_requests, size), -1, np.int64)
    n_chosen = min(size, n_items)
    chosen[:, :n_chosen] = _greedy(merit, 1 - theta, factor, n_chosen, window or n_chosen, ridge)
    return chosen


def standardised(relevance: F64, mask: NDArray[np.bool_] | None = None) -> F64:
    """Relevance with mean 0 and deviation 1 in each request, so that θ means the same in all."""
    kept = np.ones(relevance.shape, bool) if mask is None else mask
    count = np.maximum(kept.sum(1, keepdims=True), 1)
    scaled = np.where(kept, relevance, 0.0)
    scaled = np.where(kept, scaled - scaled.sum(1, keepdims=True) / count, 0.0)
    deviation = np.sqrt((scaled**2).sum(1, keepdims=True) / count)
    found: F64 = np.divide(scaled, deviation, out=np.zeros(scaled.shape), where=deviation > 0)
    return found


def _greedy(
    merit: F64, weight: F64, factor: F64, size: int, window: int, ridge: float
) -> NDArray[np.int64]:
    """`size` times argmax merit + weight log d², [B, size], -1 where all merits are -inf.

    Args:
        merit: [B, N] θ r, -inf for what does not exist; changed to -inf for what is chosen.
        weight: [B, 1] 1 - θ.
        factor: [B, N, D + 1] of `similarity_factor`.
    """
    rest = 1 - (factor**2).sum(2)  # [B, N]: S's diagonal without V Vᵀ's
    floor = 0.5 * ridge / (1 + ridge)  # only a chosen item's d², which is 0, lies below
    rows = np.arange(len(merit))
    residual = np.ones(merit.shape)  # d²: S has a diagonal of ones
    chosen = np.full((len(merit), size), -1, np.int64)
    cholesky = np.zeros((len(merit), size, merit.shape[1]))  # row t: column of the t-th chosen
    for t in range(size):
        best = (merit + weight * np.log(residual)).argmax(1)  # [B]
        chosen[:, t] = np.where(merit[rows, best] > -np.inf, best, -1)
        merit[rows, best] = -np.inf
        if t + 1 == size:
            break
        if t + 1 < window:
            e = (factor @ factor[rows, best][:, :, None])[:, :, 0]
            e[rows, best] += rest[rows, best]
            e -= (cholesky[rows, :t, best][:, None] @ cholesky[:, :t])[:, 0]
            e /= np.sqrt(residual[rows, best])[:, None]
            cholesky[:, t] = e
            residual = np.maximum(residual - e**2, floor)
        else:
            recent = chosen[:, t + 2 - window : t + 1]
            residual = np.maximum(_against(factor, rest, recent), floor)
    return chosen


def _against(factor: F64, rest: F64, recent: NDArray[np.int64]) -> F64:
    """d² of every item against the recent ones alone, [B, N]: 1 - S_iW S_WW⁻¹ S_Wi."""
    inside = np.take_along_axis(factor, recent[:, :, None], 1)  # [B, w - 1, D + 1]
    between = inside @ factor.transpose(0, 2, 1)  # [B, w - 1, N]
    own = inside @ inside.transpose(0, 2, 1)
    diagonal = np.arange(recent.shape[1])
    own[:, diagonal, diagonal] += np.take_along_axis(rest, recent, 1)
    found: F64 = 1 - (between * np.linalg.solve(own, between)).sum(1)
    return found


def _check(
    relevance: F64,
    vectors: F64,
    size: int,
    theta: F64,
    window: int | None,
    mask: NDArray[np.bool_],
    ridge: float,
) -> None:
    if vectors.shape[:2] != relevance.shape or mask.shape != relevance.shape:
        raise ValueError(
            f"pages: vectors and mask: expected {list(relevance.shape)} as of relevance,"
            f" got {list(vectors.shape[:2])} and {list(mask.shape)}"
        )
    if size < 1:
        raise ValueError(f"pages: size: expected at least 1, got {size}")
    if window is not None and window < 2:
        raise ValueError(f"pages: window: expected at least 2, got {window}")
    if not ridge > 0:
        raise ValueError(f"pages: ridge: expected > 0, got {ridge}")
    if not ((theta >= 0) & (theta <= 1)).all():
        wrong = (1 - theta)[~((theta >= 0) & (theta <= 1))][0]
        raise ValueError(f"pages: diversity: expected 0 to 1, got {wrong:g}")
    if not np.isfinite(relevance[mask]).all():
        row, item = np.argwhere(mask & ~np.isfinite(relevance))[0]
        raise ValueError(
            f"pages: relevance: expected finite values, got {relevance[row, item]}"
            f" at request {row}, item {item}"
        )
    if not np.isfinite(vectors[mask]).all():
        row, item = np.argwhere(mask & ~np.isfinite(vectors).all(2))[0]
        raise ValueError(
            f"pages: vectors: expected finite values, got others at request {row}, item {item}"
        )
