"""Differentiable ranks: scores projected on the permutahedron (Blondel et al. 2020, §4)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor

# Ranks are resolved to 2^-13 even where all the gaps of a batch lie behind one another.
_LARGEST_RANGE = 2.0**40


@dataclass(frozen=True)
class Projection:
    """Soft ranks of n scores, and the blocks of equal correction that they fall into."""

    ranks: NDArray[np.float64]  # [n]
    block: NDArray[np.int64]  # [n] block of each score
    size: NDArray[np.int64]  # [blocks] scores in each


def project(
    scores: NDArray[np.float64], request: NDArray[np.int64], epsilon: NDArray[np.float64]
) -> Projection:
    """argmin over t in P(1..n) of 1/2 |t - scores/ε|², for each request alone.

    With z = s/ε ascending and w = 1..n the minimum is z - v, where v is the isotonic regression of
    y = z - w; v is the mean of y in each block that pool-adjacent-violators forms. A rank is thus
    the mean place of its block plus (s - mean s of the block)/ε.

    One regression serves all requests: v lies between the least and the largest y of its request,
    so a constant added to each request that puts its least y above the largest of the request
    before makes the concatenation of their solutions increase. It is then admissible, and as each
    part minimises its own part of the sum, it is the minimum. The constant drops out of the ranks.

    Args:
        scores: [n] finite.
        request: [n] which request each score belongs to, in any order.
        epsilon: [Q] > 0, of each request.
    Raises:
        ValueError: a score that is not finite, an ε not above 0 or too small to tell ranks apart.
    """
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(
            f"soft_rank: scores: expected finite values, got {scores[row]} at row {row}"
        )
    if not (epsilon > 0).all():
        raise ValueError(f"soft_rank: epsilon: expected > 0, got {epsilon.min()}")
    n = len(scores)
    if n == 0:
        return Projection(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))
    order = np.lexsort((scores, request))
    sorted_request = request[order]
    first = np.flatnonzero(np.r_[True, sorted_request[1:] != sorted_request[:-1]])
    length = np.diff(np.r_[first, n])
    place = np.arange(1.0, n + 1) - np.repeat(first, length)  # 1..n_q in each request
    height = scores[order]
    height -= np.repeat(height[first], length)
    height /= epsilon[sorted_request]
    excess = height - place  # y

    low, high = np.minimum.reduceat(excess, first), np.maximum.reduceat(excess, first)
    if (reach := (high - low).sum()) > _LARGEST_RANGE:
        raise ValueError(
            f"soft_rank: epsilon: expected scores within 2^40 ε in all, got {reach:.3g} ε"
        )
    apart = np.cumsum(np.r_[0.0, high[:-1] - low[1:] + 1])
    start = isotonic_regression(excess + np.repeat(apart, length)).blocks[:-1]
    size = np.diff(np.r_[start, n])
    mean_place, mean_height = (np.add.reduceat(x, start) / size for x in (place, height))

    ranks, block = np.empty(n), np.empty(n, np.int64)
    # In this order a block of one is left with its place to the bit.
    ranks[order] = (height - np.repeat(mean_height, size)) + np.repeat(mean_place, size)
    block[order] = np.repeat(np.arange(len(size)), size)
    return Projection(ranks, block, size)


class _SoftRank(torch.autograd.Function):
    """Forward in compiled code on the CPU in fp64; backward (g - mean of g in its block)/ε."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, request: Tensor, epsilon: Tensor
    ) -> tuple[Tensor, Tensor]:
        found = project(
            scores.detach().cpu().double().numpy(), request.cpu().numpy(), epsilon.cpu().numpy()
        )
        block = torch.from_numpy(found.block).to(scores.device)
        size = torch.from_numpy(found.size).to(scores)
        ctx.save_for_backward(block, size, epsilon.to(scores)[request])
        ctx.mark_non_differentiable(size)
        return torch.from_numpy(found.ranks).to(scores), size

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        block, size, epsilon = ctx.saved_tensors
        gradient = gradients[0]
        mean = torch.zeros_like(size).index_add(0, block, gradient) / size
        return (gradient - mean[block]) / epsilon, None, None


def soft_rank(
    scores: Tensor, epsilon: float | Tensor, request: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Ascending soft ranks 1..n of scores, within each request, and the sizes of their blocks.

    Equal to the ranks (the mean rank for ties) where all gaps are at least ε, with gradient 0; to
    (n + 1)/2 + (s - mean s)/ε, where ε is so large that one block is left.

    Args:
        scores: [n] float, finite; ranks are computed on the CPU, a device's scores travel there.
        epsilon: > 0 for all, or [Q] for each request.
        request: [n] int64 in 0..Q - 1, in any order; None is one request.
    Returns:
        ranks [n] and sizes [blocks] of the scores' type. The number of blocks over n is the
        diagnostic of ε: near 0 ranks carry no order, near 1 no gradient.
    Raises:
        ValueError: shapes that differ, or what `project` refuses.
    Exactness: fp64, rounded to the scores' type.
    """
    if request is None:
        request = torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
    if scores.ndim != 1 or request.shape != scores.shape:
        raise ValueError(
            "soft_rank: scores and request: expected one length [n],"
            f" got {list(scores.shape)} and {list(request.shape)}"
        )
    n_requests = int(request.max()) + 1 if len(request) else 0
    if not isinstance(epsilon, Tensor):
        epsilon = torch.full((n_requests,), epsilon, dtype=torch.float64, device=scores.device)
    if epsilon.ndim != 1 or len(epsilon) < n_requests:
        raise ValueError(
            f"soft_rank: epsilon: expected one for each of {n_requests} requests,"
            f" got {list(epsilon.shape)}"
        )
    ranks, size = _SoftRank.apply(scores, request, epsilon.double())  # type: ignore[no-untyped-call]
    return ranks, size
