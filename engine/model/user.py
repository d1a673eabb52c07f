"""The [USER] vector (engine/model/README.md, "Encoder and the two user vectors")."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CATEGORY_DIM = 16


class UserEncoder(nn.Module):
    """Small tables for categories and one linear layer for numbers, concatenated and projected.

    Row 0 of every table and the `known` flags stand for an unknown value, learned like any other.
    """

    def __init__(self, category_sizes: Sequence[int], n_numeric: int, d_model: int) -> None:
        """category_sizes: values of each category, the unknown one included."""
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, CATEGORY_DIM) for size in category_sizes)
        self.base = nn.Parameter(torch.randn(d_model) * 0.1)
        width = CATEGORY_DIM * len(category_sizes) + 2 * n_numeric
        self.project = nn.Linear(width, d_model, bias=False) if width else None

    def forward(self, categorical: Tensor, numeric: Tensor, known: Tensor) -> Tensor:
        """[B, d_model] from codes [B, C] int64, numbers [B, M] (0 unknown) and known [B, M]."""
        parts = [table(categorical[:, i]) for i, table in enumerate(self.tables)]
        features = torch.cat([*parts, numeric * known, known], dim=-1)
        base = self.base.expand(categorical.shape[0], -1)
        return base if self.project is None else base + self.project(features)
