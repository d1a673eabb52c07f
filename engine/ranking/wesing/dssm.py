"""Two towers as a source of recall: P(item | user) ∝ exp(γ cos(u, v))."""

from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.errors import ConfigError
from engine.ranking.data.impressions import Impressions
from engine.ranking.features import IDS, OF_USER, Features, FieldEmbedding, concatenated, fit

from .config import DssmConfig
from .frequency import log_frequency

Vectors = NDArray[np.float32]


class Tower(nn.Module):
    """Inputs of a side to unit vectors [n, width]."""

    def __init__(self, features: Features, config: DssmConfig) -> None:
        super().__init__()
        self.embedding = FieldEmbedding(features, config.dim)
        self.layers = nn.Sequential(
            nn.Linear(sum(self.embedding.dims), config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, config.width),
        )

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        return F.normalize(self.layers(concatenated(self.embedding(numbers, categories))), dim=-1)


@dataclass(frozen=True)
class Dssm:
    """The trained towers: inner products of their vectors are cosines."""

    user_features: Features
    item_features: Features
    user_tower: Tower
    item_tower: Tower

    @torch.no_grad()
    def users(self, log: Impressions) -> Vectors:
        """[n, width] of the users of the rows, in the rows' context."""
        vectors: Vectors = self.user_tower(*self.user_features.read(log)).numpy()
        return vectors

    @torch.no_grad()
    def items(self, log: Impressions) -> Vectors:
        """[n, width] of the items of the rows."""
        vectors: Vectors = self.item_tower(*self.item_features.read(log)).numpy()
        return vectors


def catalogue(log: Impressions) -> Impressions:
    """Each item's last row: what is known of it latest."""
    return Impressions(log.frame.unique("item_id", keep="last", maintain_order=True))


def in_batch_loss(cosines: Tensor, item: Tensor, log_q: Tensor, gamma: float) -> Tensor:
    """mean_i -log softmax_j(γ cos(u_i, v_j) - log Q_j) at j = i.

    A batch has items as often as they are positive, Q, and without the correction the towers would
    answer P/Q. Other rows of the positive's own item are no negatives of it.

    Args:
        cosines: [n, n] of users i and items j.
        item: [n] ids.
        log_q: [n] of the items.
    """
    same = item[:, None] == item
    same.fill_diagonal_(False)
    logits = (gamma * cosines - log_q).masked_fill(same, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(item)))


def train_dssm(log: Impressions, config: DssmConfig | None = None) -> Dssm:
    """Towers that tell a positive's item from the other items of its batch.

    Raises:
        ConfigError: an objective or a context column that the log lacks.
        ValueError: fewer than two positives.
    """
    config = config or DssmConfig()
    if config.objective not in log.objectives:
        raise ConfigError(
            f"dssm: objective: expected one of {list(log.objectives)}, got {config.objective}"
        )
    if missing := set(config.context) - set(log.features):
        raise ConfigError(f"dssm: context: expected columns of the log, got {sorted(missing)}")
    torch.manual_seed(config.seed)
    user_features, item_features = _sides(log, config)
    towers = Tower(user_features, config), Tower(item_features, config)
    positive = Impressions(log.frame.filter(pl.col(f"label_{config.objective}")))
    if len(positive) < 2:
        raise ValueError(f"dssm: expected two positives or more, got {len(positive)}")
    of_user, of_item = user_features.read(positive), item_features.read(positive)
    item = torch.from_numpy(positive.frame["item_id"].rank("dense").to_numpy().astype(np.int64)) - 1
    parameters = [p for tower in towers for p in tower.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    # The estimate follows the rows in order of time, as a stream would give them.
    log_q = torch.from_numpy(log_frequency(item.numpy(), config.correction, config.pace)).float()
    for _ in range(config.epochs):
        for rows in torch.split(torch.randperm(len(item)), config.batch):
            cosines = towers[0](*of_user.at(rows)) @ towers[1](*of_item.at(rows)).T
            loss = in_batch_loss(cosines, item[rows], log_q[rows], config.gamma)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return Dssm(user_features, item_features, *towers)


def _sides(log: Impressions, config: DssmConfig) -> tuple[Features, Features]:
    """The features of either tower."""
    left_out = config.features.leave_out
    names = [name for name in (*IDS, *log.features) if name not in left_out]
    user = [name for name in names if name.startswith(OF_USER) or name in config.context]
    item = [name for name in names if name not in user]

    def read_all_but(others: list[str]) -> Features:
        leave_out = (*left_out, *others)
        return fit(log, config.features.model_copy(update={"leave_out": leave_out}))

    return read_all_but(item), read_all_but(user)
