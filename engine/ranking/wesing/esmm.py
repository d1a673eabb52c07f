"""pCTCVR = pCTR · pCVR along a tree of objectives, in log space."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.errors import ConfigError


class ConversionTree(nn.Module):
    """logit p_m, p_m = σ(z_m) p_parent(m): of all impressions, not only of those clicked.

    An objective without a parent keeps its own logit. Two log-probabilities are carried,
    log p = log σ(z) + log p' and log(1 - p) = log((1 - p') + p' σ(-z)), so that neither a p near 0
    nor one near 1 is rounded away; p_m <= p_parent holds to the last bit.
    """

    def __init__(self, objectives: Sequence[str], parents: Mapping[str, str]) -> None:
        """Raises ConfigError for a parent or child that is no objective, or for a circle."""
        super().__init__()
        self.objectives = tuple(objectives)
        for child, parent in parents.items():
            for name in (child, parent):
                if name not in self.objectives:
                    raise ConfigError(
                        f"parents: expected objectives of {list(self.objectives)}, got {name}"
                    )
        self.parent = [
            self.objectives.index(parents[m]) if m in parents else None for m in self.objectives
        ]
        self.order: list[int] = []
        while len(self.order) < len(self.objectives):
            ready = [
                m
                for m, parent in enumerate(self.parent)
                if m not in self.order and (parent is None or parent in self.order)
            ]
            if not ready:
                circle = [m for k, m in enumerate(self.objectives) if k not in self.order]
                raise ConfigError(f"parents: expected a tree, got a circle among {circle}")
            self.order += ready

    def forward(self, logits: Tensor) -> Tensor:
        """[..., M] logits of pCTCVR of [..., M] logits, each given that its parent happened."""
        tasks = range(len(self.objectives))
        found = [logits[..., m] for m in tasks]
        # log σ(z); ONNX has no such operator, and log of σ would end at -inf.
        yes, no = ([-F.softplus(-sign * z) for z in found] for sign in (1, -1))
        for m in self.order:
            parent = self.parent[m]
            if parent is not None:
                no[m] = _log_sum(no[parent], yes[parent] + no[m])
                yes[m] = yes[parent] + yes[m]
                # At p_m = p' rounding could end above.
                found[m] = torch.minimum(yes[m] - no[m], found[parent])
        return torch.stack(found, -1)

    def check(self, labels: NDArray[Any]) -> None:
        """Refuses labels [n, M] of which a child is positive where its parent is not.

        Raises:
            ValueError: names the two objectives and how many rows.
        """
        for m, parent in enumerate(self.parent):
            if parent is not None and (alone := labels[:, m] & ~labels[:, parent]).any():
                raise ValueError(
                    f"parents: {self.objectives[m]}: expected its positives among those of"
                    f" {self.objectives[parent]}, got {int(alone.sum())} others"
                )


def _log_sum(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) + exp(b)), at least max(a, b) to the last bit."""
    return torch.maximum(a, b) + F.softplus(-(a - b).abs())


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """[M] mean binary cross-entropy of each objective over all impressions, of [n, M] each."""
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(0)
