"""A plain ranker of logged impressions: probabilities to fuse where no finer ranker is at hand."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from polars import selectors
from torch import nn

from .auc import F64
from .data.impressions import Impressions
from .data.past import PAST


@dataclass(frozen=True)
class Upstream:
    """A network over the numeric features, and how it scales them."""

    network: nn.Sequential
    columns: tuple[str, ...]
    mean: F64
    deviation: F64

    @torch.no_grad()
    def __call__(self, asked: Impressions) -> F64:
        """Probabilities, [n, M]."""
        x = (_numbers(asked, self.columns) - self.mean) / self.deviation
        logits = self.network(torch.from_numpy(x.astype(np.float32)))
        found: F64 = torch.sigmoid(logits).double().numpy()
        return found


def train_upstream(
    seen: Impressions, *, hidden: int = 64, epochs: int = 8, lr: float = 2e-3, seed: int = 0
) -> Upstream:
    """One hidden layer shared by the objectives, summed binary cross-entropy, AdamW."""
    torch.manual_seed(seed)
    numeric = seen.frame.select(selectors.numeric()).columns
    columns = tuple(name for name in seen.features if name in numeric)
    raw = _numbers(seen, columns)
    mean, deviation = raw.mean(0), raw.std(0)
    deviation[deviation == 0] = 1
    network = nn.Sequential(
        nn.Linear(len(columns), hidden), nn.GELU(), nn.Linear(hidden, len(seen.objectives))
    )
    x = torch.from_numpy(((raw - mean) / deviation).astype(np.float32))
    labels = torch.from_numpy(seen.labels.astype(np.float32))
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for start in range(0, len(x), 256):
            rows = order[start : start + 256]
            loss = F.binary_cross_entropy_with_logits(network(x[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return Upstream(network, columns, mean, deviation)


def user_profile(asked: Impressions) -> F64:
    """[n, M + 1] what a user is known for, as `with_past` describes it."""
    return asked.frame.select(pl.col(f"^{PAST}user_.*$")).to_numpy().astype(np.float64)


def _numbers(log: Impressions, columns: tuple[str, ...]) -> F64:
    """[n, F] of sign(x) log(1 + |x|), 0 for the unknown."""
    x = log.frame.select(columns).fill_null(0).to_numpy().astype(np.float64)
    found: F64 = np.sign(x) * np.log1p(abs(x))
    return found
