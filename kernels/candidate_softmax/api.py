"""Public candidate softmax: checks its arguments and runs the reference."""

import torch
from torch import Tensor

from kernels.checks import check_dtype, check_shape

from .reference import CandidateLoss
from .reference import candidate_softmax as reference


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

    Args:
        hidden: [P, D].
        items: [N, D], dtype of `hidden`.
        bias: [N] fp32.
        shared: [S] int64, unique.
        shared_log_pi: [S] fp32.
        candidates: [P, C] int64, unique within a row, -1 pads.
        log_pi, offset, weight: [P, C] fp32.
        negative: [P, C] bool.
    Returns:
        CandidateLoss of loss, negative_loss and logsumexp, [P] fp32 each, as in `reference.py`.
    Raises:
        ValueError, TypeError: a shape or dtype outside the above; names the argument.
    Exactness: fp32 sums; differentiable in hidden, items and offset.
    """
    op = "candidate_softmax"
    (p, d), c = hidden.shape, candidates.shape[-1]
    check_shape(op, "items", items, (items.shape[0], d))
    check_shape(op, "bias", bias, (items.shape[0],))
    check_shape(op, "shared_log_pi", shared_log_pi, tuple(shared.shape))
    for name, tensor in (
        ("candidates", candidates),
        ("log_pi", log_pi),
        ("offset", offset),
        ("weight", weight),
        ("negative", negative),
    ):
        check_shape(op, name, tensor, (p, c))
    check_dtype(op, "items", items, hidden.dtype)
    check_dtype(op, "shared", shared, torch.int64)
    check_dtype(op, "candidates", candidates, torch.int64)
    check_dtype(op, "negative", negative, torch.bool)
    return reference(
        hidden, items, bias, shared, shared_log_pi, candidates, log_pi, offset, weight, negative
    )
