"""Losses of a score that orders for several objectives at once, and the soft AUC they share.

A loss of AUC needs ranks that have a gradient. Two kinds plug into the same rank sum: soft ranks of
the permutahedron (HarmonRank), and sums of sigmoids over pairs, with which it is the pairwise
surrogate. All objectives share one score, so one set of ranks serves them all.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import FusionConfig
from .soft_rank import soft_rank


@dataclass(frozen=True)
class Fused:
    """A loss, a scalar, and what it was made of."""

    loss: Tensor
    auc: Tensor  # [M] soft AUC, NaN where no request has both classes; detached, NaN for BCE
    blocks: float  # blocks of the soft ranks over n: 1/n no order, 1 no gradient; NaN without them


def fused_loss(scores: Tensor, labels: Tensor, request: Tensor, config: FusionConfig) -> Fused:
    """The loss that the configuration names.

    Args:
        scores: [n] logits.
        labels: [n, M] bool.
        request: [n] int64 in 0..Q - 1, in any order.
    Raises:
        ValueError: shapes that differ; for harmonrank, scores that do not differ in any request.
    """
    if labels.ndim != 2 or not len(scores) == len(labels) == len(request):
        raise ValueError(
            "fused_loss: scores, labels and request: expected [n], [n, M] and [n],"
            f" got {list(scores.shape)}, {list(labels.shape)} and {list(request.shape)}"
        )
    if config.loss == "bce":
        nothing = torch.full((labels.shape[1],), torch.nan)
        return Fused(summed_bce(scores, labels), nothing, float("nan"))
    if not config.per_request:
        request = torch.zeros_like(request)
    scores = scores.double()  # ranks times labels, less n⁺²: fp32 would keep few digits of it
    if config.loss == "pairwise":
        areas = soft_auc(sigmoid_rank(scores, request, config.tau), labels, request)
        return Fused(_mean_loss(areas, scores), areas.detach(), float("nan"))
    count = torch.bincount(request)
    epsilon = config.c / count.clamp(min=1).double()
    ranks, size = soft_rank(standardised(scores, request), epsilon, request)
    areas = soft_auc(ranks, labels, request)
    # Ranks change by 1/ε with the scores: times εn = c the gradient has one scale whatever ε.
    loss = config.c * _mean_loss(areas, scores)
    return Fused(loss, areas.detach(), len(size) / len(scores))


def soft_auc(ranks: Tensor, labels: Tensor, request: Tensor) -> Tensor:
    """(Σ ranks of positives - n⁺(n⁺ + 1)/2)/(n⁺n⁻), mean over the requests with both classes.

    Args:
        ranks: [n] ascending, 1..n_q in each request.
        labels: [n, M] bool.
        request: [n] int64.
    Returns:
        [M], NaN where no request has both classes.
    """
    y = labels.to(ranks)
    count = torch.bincount(request).to(ranks)[:, None]  # [Q, 1]
    zeros = ranks.new_zeros(len(count), labels.shape[1])
    positive = zeros.index_add(0, request, y)
    pairs = positive * (count - positive)
    both = pairs > 0
    excess = zeros.index_add(0, request, ranks[:, None] * y) - positive * (positive + 1) / 2
    mean = (excess / pairs.where(both, 1.0) * both).sum(0) / both.sum(0).clamp(min=1)
    return mean.where(both.any(0), torch.nan)  # not 0/0, whose gradient is NaN even where unused


def sigmoid_rank(scores: Tensor, request: Tensor, tau: float) -> Tensor:
    """1/2 + Σ_j σ((s_i - s_j)/τ) over the request of i, [n].

    Two positives' terms sum to 1, so that `soft_auc` of these ranks is the pairwise surrogate
    exactly: the mean of σ((s⁺ - s⁻)/τ).
    """
    count = torch.bincount(request)
    order = torch.argsort(request, stable=True)
    place = torch.empty_like(request)
    place[order] = torch.arange(len(request), device=request.device) - (
        torch.repeat_interleave(count.cumsum(0) - count, count)
    )
    shape = (len(count), int(count.max()))
    padded = scores.new_zeros(shape).index_put((request, place), scores)
    there = torch.zeros(shape, dtype=torch.bool, device=scores.device)
    there[request, place] = True
    above = torch.sigmoid((padded[:, :, None] - padded[:, None, :]) / tau)  # [Q, n_q, n_q]
    return 0.5 + (above * there[:, None, :]).sum(2)[request, place]


def summed_bce(scores: Tensor, labels: Tensor) -> Tensor:
    """Σ over objectives of the binary cross-entropy of one score against each."""
    every = scores[:, None].expand(labels.shape)
    return F.binary_cross_entropy_with_logits(every, labels.to(scores)) * labels.shape[1]


def standardised(scores: Tensor, request: Tensor) -> Tensor:
    """(s - mean of its request)/std within requests, one for the batch.

    One deviation for all keeps a request whose scores lie close together close together: its ranks
    stay soft. The gradient passes through both moments, since neither can change an order.

    Raises:
        ValueError: scores that do not differ within any request.
    """
    count = torch.bincount(request).to(scores)
    sums = torch.zeros_like(count).index_add(0, request, scores)
    centred = scores - (sums / count.clamp(min=1))[request]
    deviation = centred.square().mean().sqrt()
    if not deviation > 0:
        raise ValueError(
            f"harmonrank: scores: expected some that differ within a request,"
            f" got a standard deviation of {deviation.item()}"
        )
    return centred / deviation


def _mean_loss(areas: Tensor, scores: Tensor) -> Tensor:
    """1 - mean of the soft AUCs that exist; 0, with gradient 0, in a batch that has none."""
    there = ~areas.isnan()
    if not there.any():
        return scores.sum() * 0
    return 1 - areas[there].mean()
