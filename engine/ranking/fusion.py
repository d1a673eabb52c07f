"""Training the ensemble by one of the losses, and the weights that need no training."""

import numpy as np
import torch
from torch import Tensor

from .auc import F64, Ids, Labels, auc, gauc, request_ranks
from .config import EnsembleConfig, FusionConfig
from .ensemble import Ensemble
from .harmonrank import fused_loss
from .simulate import Scored


def mean_auc(scores: F64, labels: Labels, request: Ids, *, grouped: bool) -> F64:
    """AUC, or GAUC where `grouped`, of each objective, [M]."""
    return gauc(scores, labels, request).mean if grouped else auc(scores, labels)


def inputs(scored: Scored) -> tuple[Tensor, Tensor, Tensor]:
    """Arguments of `Ensemble.forward`, float32."""
    size = np.bincount(scored.request)[scored.request]
    rank = np.stack([request_ranks(p, scored.request) / size for p in scored.probability.T], 1)
    probability, places, user = (
        torch.from_numpy(x.astype(np.float32)) for x in (scored.probability, rank, scored.user)
    )
    return probability, places, user


def train(scored: Scored, config: FusionConfig) -> tuple[Ensemble, float]:
    """The ensemble after `epochs` over the requests, and the mean share of blocks of its last epoch
    (NaN where the loss has no soft ranks). The same seed gives the same weights on one machine."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    network = Ensemble(
        EnsembleConfig(objectives=scored.labels.shape[1], user_dim=scored.user.shape[1])
    )
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay
    )
    given, labels = inputs(scored), torch.from_numpy(scored.labels)
    order = np.argsort(scored.request, kind="stable")
    rows = np.split(order, np.cumsum(np.bincount(scored.request))[:-1])
    blocks: list[float] = []
    for _ in range(config.epochs):
        blocks.clear()
        drawn = rng.permutation(len(rows))
        for start in range(0, len(drawn), config.batch_requests):
            batch = [rows[q] for q in drawn[start : start + config.batch_requests]]
            place = torch.from_numpy(np.concatenate(batch))
            request = torch.from_numpy(np.repeat(np.arange(len(batch)), [len(r) for r in batch]))
            found = fused_loss(network(*(x[place] for x in given)), labels[place], request, config)
            optimiser.zero_grad()
            found.loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            blocks.append(found.blocks)
    return network, float(np.mean(blocks))


@torch.no_grad()
def fused(network: Ensemble, scored: Scored) -> F64:
    """Fused logits, [n]."""
    scores: F64 = network(*inputs(scored)).double().numpy()
    return scores


def expected_weights(labels: Labels, request: Ids, *, grouped: bool) -> F64:
    """[M] weights of probabilities whose sum is, to first order, the best score for mean AUC.

    Mean AUC is linear in the ranks: const + <r, u> with u_i = Σ_m y_i^m/(M Q_m n⁺n⁻). Its
    expectation is largest where ranks follow E u_i = Σ_m w_m P(y_i^m = 1), w_m the mean of
    1/(Q_m n⁺n⁻) over positives: 1/(π_m (1 - π_m)) but for a factor, over all impressions. Rare
    objectives weigh more; the cross-entropies' sum weighs all alike.
    """
    request = request if grouped else np.zeros_like(request)
    size = np.bincount(request)[:, None]
    positive = np.stack([np.bincount(request, y) for y in labels.T], 1)
    pairs = positive * (size - positive)
    counted = np.maximum((pairs > 0).sum(0), 1)
    # A request's positives all carry 1/(Q n⁺n⁻).
    weight = np.divide(positive, pairs, out=np.zeros(pairs.shape), where=pairs > 0).sum(0)
    found: F64 = weight / counted / np.maximum(positive.sum(0), 1)
    return found


def searched_weights(scored: Scored, *, grouped: bool, draws: int = 64, seed: int = 0) -> F64:
    """[M] weights of logits, summing to 1, best in mean AUC of `draws` and of equal ones."""
    m = scored.labels.shape[1]
    candidates = np.vstack(
        [np.full(m, 1 / m), np.random.default_rng(seed).dirichlet(np.ones(m), size=draws)]
    )
    logits = safe_logit(scored.probability)
    value = [
        np.nanmean(mean_auc(logits @ w, scored.labels, scored.request, grouped=grouped))
        for w in candidates
    ]
    best: F64 = candidates[int(np.argmax(value))]
    return best


def safe_logit(probability: F64) -> F64:
    """log p/(1 - p), p held 1e-6 off 0 and 1."""
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    found: F64 = np.log(p) - np.log1p(-p)
    return found
