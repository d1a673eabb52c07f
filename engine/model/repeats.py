"""Logits of items that the user bought before (engine/model/README.md, "Repeats")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.repeats import FEATURES
from engine.sales import N_WINDOWS

HEADS = 2  # next, general


class RepeatScorer(nn.Module):
    """r(u, j, t) and the scale a of the dot product, one of each per head.

    A bought item scores a·h·c + b + r instead of h·c + b.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, hidden: int, n_promotions: int) -> None:
        """n_promotions: kinds of promotion, whose strengths follow the FEATURES and the sales."""
        super().__init__()
        n_features = len(FEATURES) + N_WINDOWS + n_promotions
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))
        self.layer_in = nn.Linear(n_features, hidden)
        self.layer_middle = nn.Linear(hidden, hidden)
        self.layer_out = nn.Linear(hidden, HEADS)
        nn.init.zeros_(self.layer_out.weight)
        nn.init.zeros_(self.layer_out.bias)
        # At full scale the dot product, mostly popularity, drowns what counting knows.
        self.scale = nn.Parameter(torch.full((HEADS,), 0.3))

    def standardise(self, features: Tensor) -> None:
        """Fixes mean and std from a sample of features [n, F]."""
        self.mean.copy_(features.mean(dim=0))
        self.std.copy_(features.std(dim=0).clamp(min=1e-3))

    def forward(self, features: Tensor) -> Tensor:
        """r [n, HEADS] of features [n, F]."""
        x = (features - self.mean) / self.std
        x = F.relu(self.layer_in(x))
        x = F.relu(self.layer_middle(x))
        r: Tensor = self.layer_out(x)
        return r
