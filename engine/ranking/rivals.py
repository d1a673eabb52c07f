"""What a user might take to fuse objectives: the losses, and weights that need no training."""

import numpy as np

from .auc import F64, Ids, Labels
from .config import LOSSES, FusionConfig
from .fusion import fused, mean_auc, train
from .scored import Scored


def trained(seen: Scored, asked: Scored, config: FusionConfig) -> dict[str, F64]:
    """[n] logits for `asked` of the ensemble fitted on `seen`, by name of its loss."""
    return {
        loss: fused(train(seen, config.model_copy(update={"loss": loss}))[0], asked)
        for loss in LOSSES
    }


def untrained(seen: Scored, asked: Scored, *, grouped: bool) -> dict[str, F64]:
    """[n] scores of `asked` by equal, searched and expected weights, the latter two of `seen`."""
    logits = safe_logit(asked.probability)
    return {
        "equal_weights": logits.sum(1),
        "searched_weights": logits @ searched_weights(seen, grouped=grouped),
        "expected_weights": asked.probability
        @ expected_weights(seen.labels, seen.request, grouped=grouped),
    }


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
