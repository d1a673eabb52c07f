"""What the fusion of objectives learns from and scores."""

from dataclasses import dataclass

from .auc import F64, Ids, Labels


@dataclass(frozen=True)
class Scored:
    """Impressions as the fusion sees them: an upstream ranker's probabilities, users, labels."""

    probability: F64  # [n, M]
    user: F64  # [n, user_dim]
    labels: Labels  # [n, M]
    request: Ids  # [n] in 0..Q - 1
