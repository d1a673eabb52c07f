"""Fits what orders never-bought items (engine/serving/discovery.py) on the days that were left out.

For each request whose next session has items that its user never bought, those among the candidates
are the targets of a softmax over the candidates. Few weights on few thousand requests: convex, and
held to the vectors' own order where the data says nothing.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.bundle import Bundle
from engine.data.dataset import Dataset
from engine.serving.discovery import CANDIDATES
from engine.serving.options import Options
from engine.serving.recommender import Recommender

from .evaluate import STRATEGIES, requests_of
from .protocol import Task, next_session

HELD = 10.0  # requests that the vectors' own order counts as
_STEPS, _AT_ONCE = 50, 64
_REQUESTS = 4096  # as many as nine weights need; a request's candidates are a thousand rows

Examples = list[tuple[Tensor, Tensor, Tensor]]  # features [n, F], b [n], places of the targets


def fit_discovery(
    bundle: Bundle, dataset: Dataset, end: int, lambda_serve: float, threads: int = 1
) -> NDArray[np.float32]:
    """Weights [2, F] of the features, for h_next and h_gen.

    Args:
        bundle: of a model that saw nothing of [cut, end).
        lambda_serve: the prior that they will stand beside.
    """
    task = next_session(dataset, bundle.manifest.cut, end)
    recommender = Recommender(bundle, Options(threads))
    recommender.set_lambda(lambda_serve)
    n_features = recommender.discovery.n_features
    return np.stack(
        [_fitted(_examples(recommender, dataset, task, head), n_features) for head in range(2)]
    )


def _examples(recommender: Recommender, dataset: Dataset, task: Task, head: int) -> Examples:
    """Candidates by one head, of the requests with a target among them."""
    found = []
    step = max(-(-len(task.users) // _REQUESTS), 1)
    asked = requests_of(dataset, task, STRATEGIES[head], repeats="exclude")[::step]
    wanted = task.targets[::step]
    for start in range(0, len(asked), _AT_ONCE):
        part = asked[start : start + _AT_ONCE]
        targets = wanted[start : start + _AT_ONCE]
        for (query, best), target in zip(
            recommender.candidates(part, CANDIDATES), targets, strict=True
        ):
            items, features = recommender.discovery.candidates(
                query, query.vectors[head], best.items
            )
            places = np.flatnonzero(np.isin(items, target))
            if len(places):
                found.append(
                    (
                        torch.from_numpy(features),
                        torch.from_numpy(recommender.bias[items]),
                        torch.from_numpy(places),
                    )
                )
    return found


def _fitted(examples: Examples, n_features: int) -> NDArray[np.float32]:
    """[F] by L-BFGS over standardised features; 1 of the dot product where there is no example."""
    own = torch.zeros(n_features)
    own[0] = 1
    if not examples:
        return own.numpy()
    rows = torch.cat([features for features, _, _ in examples])
    std = rows.std(dim=0).clamp(min=1e-3)
    start = own * std
    weights = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = 0.5 * HELD * (weights - start).square().sum()
        for features, bias, places in examples:
            scores = (features / std) @ weights + bias
            total = total + torch.logsumexp(scores, 0) - scores[places].mean()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    fitted: NDArray[np.float32] = (weights.detach() / std).numpy()
    return fitted
