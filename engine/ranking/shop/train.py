"""Trains a shop's ranker and the fusion of its objectives on collected candidates."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import StarsError
from engine.ranking.auc import auc, gauc
from engine.ranking.ensemble import Ensemble
from engine.ranking.fusion import fused
from engine.ranking.fusion import train as train_fusion
from engine.ranking.scored import Scored
from engine.ranking.wesing.ranker import start_at_rates
from engine.ranking.wesing.steps import Steps
from engine.serving.funnel import fusion_user

from .collect import Collected
from .config import ShopRankerConfig
from .network import Shape, ShopRanker

_AT_ONCE = 32  # requests


@dataclass(frozen=True)
class Trained:
    """The ranker, the fusion, and what they are worth on requests that neither saw."""

    network: ShopRanker
    fusion: Ensemble
    metrics: dict[str, Any]


def train(
    collected: Collected,
    candidates: NDArray[np.float32],
    shape: Shape,
    config: ShopRankerConfig,
    objectives: tuple[str, ...],
    parents: dict[str, str],
) -> Trained:
    """The ranker on the first requests by time, the fusion on the next, both asked on the last.

    The same seed gives the same weights on one machine.

    Args:
        collected: the requests.
        candidates: [N, D] vectors of the catalogue.
        shape: sizes of the bundle's features.
        config: of both.
        objectives, parents: of `objectives_of`.
    Raises:
        StarsError: too few requests to split, or an objective of one class.
    """
    ends = [
        round(len(collected) * s)
        for s in (config.rank_share, config.rank_share + config.fuse_share)
    ]
    parts = [
        collected.at(slice(a, b)) for a, b in zip([0, *ends], [*ends, len(collected)], strict=True)
    ]
    if not all(map(len, parts)):
        raise StarsError(f"ranker: expected requests to split in three, got {len(collected)}")
    seen, fusing, asked = parts
    network = _train_network(seen, candidates, shape, config, objectives, parents)
    scored = [_scored(network, part, candidates) for part in (fusing, asked)]
    fusion, _ = train_fusion(scored[0], config.fusion)
    return Trained(
        network, fusion, _metrics(fusion, asked, scored[1], objectives, [*map(len, parts)])
    )


def _train_network(
    seen: Collected,
    candidates: NDArray[np.float32],
    shape: Shape,
    config: ShopRankerConfig,
    objectives: tuple[str, ...],
    parents: dict[str, str],
) -> ShopRanker:
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    ranker = config.ranker.model_copy(update={"parents": parents | config.ranker.parents})
    network = ShopRanker(shape, config.model_copy(update={"ranker": ranker}), objectives)
    inside = seen.inside
    for scale, rows in (
        (network.profile_scale, seen.profile),
        (network.feature_scale, seen.features[inside]),
    ):
        scale.copy_(torch.from_numpy(_scale(rows)))
    try:
        start_at_rates(network.ranker, torch.from_numpy(seen.labels[inside]).float())
    except ValueError as error:
        raise StarsError(f"ranker: {error}") from error
    steps = Steps(
        network.ranker,
        (p for name, p in network.named_parameters() if not name.startswith("ranker.")),
        config.gradients,
        config.epochs * -(-len(seen) // config.batch_requests),
        lr=config.lr,
        weight_decay=config.weight_decay,
    )
    for _ in range(config.epochs):
        order = rng.permutation(len(seen))
        for start in range(0, len(order), config.batch_requests):
            part = seen.at(order[start : start + config.batch_requests])
            steps.take(*_ask(network, part, candidates))
    return network.eval()


def _ask(
    network: ShopRanker, part: Collected, candidates: NDArray[np.float32]
) -> tuple[Tensor, Tensor]:
    """Logits and labels [n, M] of the candidates of some requests, one after the other."""
    logits = network(*(torch.from_numpy(x) for x in part.inputs(candidates)))
    inside = torch.from_numpy(part.inside[:, : logits.shape[1]])
    return logits[inside], torch.from_numpy(part.labels[part.inside]).to(logits.dtype)


@torch.no_grad()
def _scored(network: ShopRanker, part: Collected, candidates: NDArray[np.float32]) -> Scored:
    """What the fusion reads of the candidates, one request after the other."""
    chunks = [part.at(slice(start, start + _AT_ONCE)) for start in range(0, len(part), _AT_ONCE)]
    asked = [_ask(network, chunk, candidates) for chunk in chunks]
    return Scored(
        probability=torch.sigmoid(torch.cat([logits for logits, _ in asked])).double().numpy(),
        user=np.repeat(fusion_user(part.vectors, part.profile), part.size, 0).astype(np.float64),
        labels=torch.cat([labels for _, labels in asked]).bool().numpy(),
        request=np.repeat(np.arange(len(part)), part.size),
    )


def _scale(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """[2, n] mean and deviation of rows [m, n]; a constant has deviation 1."""
    mean, deviation = rows.mean(0, dtype=np.float64), rows.std(0, dtype=np.float64)
    constant = deviation <= 1e-6 * np.maximum(1, np.abs(mean))
    scale: NDArray[np.float32] = np.stack(
        [mean, np.where(constant, 1, deviation)], dtype=np.float32
    )
    return scale


def _metrics(
    fusion: Ensemble,
    asked: Collected,
    scored: Scored,
    objectives: tuple[str, ...],
    sizes: list[int],
) -> dict[str, Any]:
    """What the lists are worth, on requests that nothing was trained on.

    AUC and GAUC of each objective by its own probability and by the fused score, GAUC also by the
    order of retrieval.
    """
    retrieved = -np.nonzero(asked.inside)[1].astype(np.float64)
    score = fused(fusion, scored)
    orders = {"retrieved": retrieved, "fused": score}
    found: dict[str, Any] = {}
    for m, name in enumerate(objectives):
        own = scored.probability[:, m]
        labels = scored.labels[:, [m]]
        by = {"own": own, **orders}
        found[name] = {
            "rate": float(labels.mean()),
            "auc": {k: float(auc(v, labels)[0]) for k, v in by.items() if k != "retrieved"},
            "gauc": {k: float(gauc(v, labels, scored.request).mean[0]) for k, v in by.items()},
        }
    return {
        "objectives": found,
        "requests": dict(zip(("rank", "fuse", "asked"), sizes, strict=True)),
    }
