"""Training the ensemble by one of the losses, and scoring with it."""

import numpy as np
import torch
from torch import Tensor

from .auc import F64, Ids, Labels, auc, gauc, request_ranks
from .config import EnsembleConfig, FusionConfig
from .ensemble import Ensemble
from .harmonrank import fused_loss
from .scored import Scored


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
