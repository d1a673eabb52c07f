"""The losses' invariants: soft AUC, one rank for all objectives, the scale, the surrogate."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.ranking.auc import auc, gauc
from engine.ranking.config import FusionConfig
from engine.ranking.harmonrank import (
    fused_loss,
    sigmoid_rank,
    soft_auc,
    standardised,
    summed_bce,
)
from engine.ranking.soft_rank import soft_rank


def batch(n: int = 120, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.random((n, 3)) < [0.5, 0.3, 0.1]
    scores = torch.from_numpy(rng.normal(size=n) + labels.sum(1)).requires_grad_()
    return scores, torch.from_numpy(labels), torch.from_numpy(rng.integers(0, 9, n))


@pytest.mark.parametrize("per_request", [False, True])
def test_with_hard_ranks_it_is_the_auc(per_request: bool) -> None:
    scores, labels, request = batch()
    found = fused_loss(
        scores, labels, request, FusionConfig(c=1e-6, per_request=per_request)
    )  # fmt: skip
    s, y, q = scores.detach().numpy(), labels.numpy(), request.numpy()
    expected = gauc(s, y, q).mean if per_request else auc(s, y)
    np.testing.assert_allclose(found.auc, expected)
    assert found.loss.item() == pytest.approx(1e-6 * (1 - expected.mean()))
    assert found.blocks == 1
    found.loss.backward()
    assert scores.grad is not None
    assert not scores.grad.any()


def test_one_soft_rank_is_the_mean_of_the_objectives_soft_aucs() -> None:
    """… and is linear in the ranks: 1 - const - <r, u>, u = mean of y/(Q n⁺n⁻)."""
    scores, labels, request = batch()
    config = FusionConfig(c=2.5)
    together = fused_loss(scores, labels, request, config)
    apart = [fused_loss(scores, labels[:, m : m + 1], request, config) for m in range(3)]
    assert together.loss.item() == pytest.approx(np.mean([f.loss.item() for f in apart]))
    np.testing.assert_allclose(together.auc, torch.cat([f.auc for f in apart]))

    ranks = soft_rank(
        standardised(scores, request), 2.5 / torch.bincount(request).double(), request
    )[0].detach()
    u, const = np.zeros(len(ranks)), 0.0
    for column in labels.numpy().T:
        valid = [q for q in range(9) if len(set(column[request.numpy() == q])) == 2]
        for q in valid:
            mine = request.numpy() == q
            positive, negative = column[mine].sum(), (~column[mine]).sum()
            u[mine] += column[mine] / (3 * len(valid) * positive * negative)
            const += (1 + (positive + 1) / (2 * negative)) / (3 * len(valid))
    assert together.loss.item() == pytest.approx(2.5 * (const - ranks.numpy() @ u))


@pytest.mark.parametrize("per_request", [False, True])
@pytest.mark.parametrize("loss", ["harmonrank", "pairwise", "bce"])
def test_the_gradient_is_that_of_finite_differences(loss: str, per_request: bool) -> None:
    scores, labels, request = batch(60)
    config = FusionConfig.model_validate({"loss": loss, "per_request": per_request})
    torch.autograd.gradcheck(
        lambda s: fused_loss(s, labels, request, config).loss, scores, eps=1e-7, atol=1e-6
    )


def test_the_gradients_scale_does_not_depend_on_epsilon() -> None:
    """In one block it is that of mean s⁻ - mean s⁺ of standardised scores, whatever ε."""
    scores, labels, request = batch()
    gradients = []
    for c in (50.0, 5000.0):
        found = fused_loss(scores, labels[:, :1], request, FusionConfig(c=c, per_request=False))
        assert found.blocks == 1 / len(scores)
        gradients.append(torch.autograd.grad(found.loss, scores)[0])
    z, y = standardised(scores, torch.zeros_like(request)), labels[:, 0]
    expected = torch.autograd.grad(z[~y].mean() - z[y].mean(), scores)[0]
    for gradient in gradients:
        np.testing.assert_allclose(gradient, expected, atol=1e-12)


def test_neither_scale_nor_place_of_the_scores_matters() -> None:
    scores, labels, request = batch()
    shift = torch.randn(9, dtype=torch.float64)[request]
    first = fused_loss(scores, labels, request, FusionConfig())
    second = fused_loss(7 * scores + shift, labels, request, FusionConfig())
    assert first.loss.item() == pytest.approx(second.loss.item())
    assert 1 / len(scores) < first.blocks < 1


def test_sigmoid_ranks_are_the_pairwise_surrogate() -> None:
    scores, labels, request = batch()
    areas = soft_auc(sigmoid_rank(scores, request, 0.7), labels, request)
    for m, y in enumerate(labels.T):
        means = []
        for q in range(9):
            positive, negative = scores[(request == q) & y], scores[(request == q) & ~y]
            if len(positive) and len(negative):
                gap = positive[:, None] - negative[None, :]
                means.append(torch.sigmoid(gap / 0.7).mean().item())
        assert areas[m].item() == pytest.approx(np.mean(means))


def test_summed_bce_is_the_sum_of_the_objectives() -> None:
    scores, labels, _ = batch()
    expected = sum(F.binary_cross_entropy_with_logits(scores, y.double()).item() for y in labels.T)
    assert summed_bce(scores, labels).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["harmonrank", "pairwise"])
def test_objectives_of_one_class_are_left_out(loss: str) -> None:
    scores, labels, request = batch()
    config = FusionConfig.model_validate({"loss": loss})
    none = torch.zeros(len(scores), 1, dtype=torch.bool)
    with_it = fused_loss(scores, torch.cat([labels, none], 1), request, config)
    without = fused_loss(scores, labels, request, config)
    assert with_it.loss.item() == without.loss.item()
    torch.testing.assert_close(
        *(torch.autograd.grad(f.loss, scores)[0] for f in (with_it, without)), rtol=0, atol=0
    )
    assert with_it.auc[3].isnan()
    nothing = fused_loss(scores, none, request, config)
    assert nothing.loss.item() == 0
    assert not torch.autograd.grad(nothing.loss, scores)[0].any()


def test_scores_that_do_not_differ_and_shapes_are_refused() -> None:
    _, labels, request = batch()
    with pytest.raises(ValueError, match="expected some that differ within a request, got a sta"):
        fused_loss(request.double(), labels, request, FusionConfig())
    with pytest.raises(
        ValueError, match=r"expected \[n\], \[n, M\] and \[n\], got \[2\], \[120, 3"
    ):
        fused_loss(torch.zeros(2), labels, request, FusionConfig())
