"""Specification of the candidate softmax, in plain torch."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class CandidateLoss(NamedTuple):
    """loss, negative_loss, logsumexp: [P] each, fp32 at least."""

    loss: Tensor
    negative_loss: Tensor
    logsumexp: Tensor


def candidate_softmax(
    hidden: Tensor,
    items: Tensor,
    bias: Tensor,
    shared: Tensor,
    shared_log_pi: Tensor,
    candidates: Tensor,
    log_pi: Tensor,
    offset: Tensor,
    weight: Tensor,
    negative: Tensor,
) -> CandidateLoss:
    """Equals -Σ_j weight_j log softmax(hidden @ items.T + bias + offset - log π)_j by row.

    The softmax runs over the position's own candidates and the shared ones together; a shared item
    that is also an own candidate counts once, as the own one.

    Args:
        hidden: [P, D].
        items: [N, D], same dtype.
        bias: [N] fp32, fixed (the popularity prior).
        shared: [S] int64 item indices, unique.
        shared_log_pi: [S] fp32, log of the chance that the item was sampled.
        candidates: [P, C] int64 item indices, unique within a row, -1 pads.
        log_pi: [P, C] fp32.
        offset: [P, C] fp32, added to the logit (the repeat term ρ).
        weight: [P, C] fp32, the share of each target; 0 for the rest.
        negative: [P, C] bool, candidates of the optional negative term.
    Returns:
        CandidateLoss: loss [P]; negative_loss [P] = -mean log σ(-z) over the row's negatives (0
        without any; z carries no -log π); logsumexp [P], -inf for a row without a candidate.
        Differentiable in hidden, items and offset.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    own = candidates >= 0  # [P, C]
    every = (hidden @ items.T).to(wide) + bias  # [P, N]
    z = every.gather(1, candidates.clamp(min=0)) + offset
    own_logits = (z - log_pi).masked_fill(~own, float("-inf"))
    shared_logits = every.index_select(1, shared) - shared_log_pi  # [P, S]
    shared_logits = shared_logits.masked_fill(
        _listed(shared, candidates, items.shape[0]), float("-inf")
    )

    logsumexp = torch.logsumexp(torch.cat([own_logits, shared_logits], dim=1), dim=1)
    gap = torch.where(own & (weight > 0), logsumexp[:, None] - own_logits, 0.0)
    loss = (weight * gap).sum(dim=1)
    negative = negative & own
    negative_loss = (F.softplus(z) * negative).sum(dim=1) / negative.sum(dim=1).clamp(min=1)
    return CandidateLoss(loss, negative_loss, logsumexp)


def _listed(shared: Tensor, candidates: Tensor, n_items: int) -> Tensor:
    """[P, S] bool: the shared item is among the row's own candidates."""
    column = torch.full((n_items + 1,), -1, dtype=torch.int64, device=shared.device)
    column[shared] = torch.arange(len(shared), device=shared.device)
    position = column[candidates]  # -1 pads read the last element, which is never a shared item
    row, slot = torch.nonzero(position >= 0, as_tuple=True)
    listed = torch.zeros(len(candidates), len(shared), dtype=torch.bool, device=shared.device)
    listed[row, position[row, slot]] = True
    return listed
