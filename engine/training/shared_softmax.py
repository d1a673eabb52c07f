"""The candidate softmax where positions list few candidates of their own and nothing else."""

import torch
from torch import Tensor


def shared_softmax(
    hidden: Tensor,
    items: Tensor,
    bias: Tensor,
    shared: Tensor,
    shared_log_pi: Tensor,
    candidates: Tensor,
    log_pi: Tensor,
    weight: Tensor,
) -> Tensor:
    """Equals candidate_softmax(…, offset=0, negative=False).loss in two passes over [P, S].

    On a CPU those passes are most of a step: the operator's reference takes a dozen.

    Args:
        hidden: [P, D]; items: [N, D]; bias: [N]; shared: [S] int64 unique; shared_log_pi: [S];
            candidates: [P, C] int64, -1 pads; log_pi, weight: [P, C]: as in candidate_softmax.
    Returns:
        [P] -Σ_j weight_j log softmax(hidden @ items.T + bias - log π)_j.
    """
    logits = torch.addmm((bias[shared] - shared_log_pi), hidden, items[shared].T)
    real = candidates >= 0
    place = candidates.clamp(min=0)
    own = (items[place] * hidden[:, None]).sum(dim=-1) + bias[place] - log_pi  # [P, C]
    column = torch.full((len(items),), -1, dtype=torch.int64, device=shared.device)
    column[shared] = torch.arange(len(shared), device=shared.device)
    listed = real & (column[place] >= 0)
    # A shared item that the row lists counts once, with the row's own chance.
    row, slot = listed.nonzero(as_tuple=True)
    at = column[candidates[row, slot]]
    logits.index_put_((row, at), shared_log_pi[at] - log_pi[row, slot], accumulate=True)
    apart = own.masked_fill(listed | ~real, float("-inf"))
    logsumexp = torch.logaddexp(torch.logsumexp(logits, 1), torch.logsumexp(apart, 1))
    gap = torch.where(real & (weight > 0), logsumexp[:, None] - own, 0.0)
    return (weight * gap).sum(dim=1)
