"""Steps of a fine ranker's training: one gradient of several tasks, AdamW, one cycle's rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .config import GradientsConfig
from .esmm import losses
from .gradients import backward_by

if TYPE_CHECKING:
    from .ranker import Ranker

_CLIP, _WARM_UP = 1.0, 0.1  # largest norm of the gradient; share of the steps


class Steps:
    """Moves a ranker and what embeds its fields.

    Args:
        ranker: the network.
        embedding: parameters below it, which all tasks move.
        gradients: how the tasks' gradients become one.
        total: steps in all.
        lr: the highest rate.
        weight_decay: of all but `Ranker.kept`.
    """

    def __init__(
        self,
        ranker: Ranker,
        embedding: Iterable[nn.Parameter],
        gradients: GradientsConfig,
        total: int,
        *,
        lr: float,
        weight_decay: float,
    ) -> None:
        shared, towers, kept = [*embedding, *ranker.shared()], ranker.towers(), ranker.kept()
        self._all = [*shared, *towers]
        self._backward = backward_by(
            gradients, shared, towers, ranker.experts.last_shared(), len(ranker.objectives)
        )
        decayed = {"params": [p for p in self._all if p not in kept], "weight_decay": weight_decay}
        rest = {"params": [p for p in self._all if p in kept], "weight_decay": 0.0}
        self._optimiser = torch.optim.AdamW([decayed, rest], lr=lr)
        self._pace = torch.optim.lr_scheduler.OneCycleLR(
            self._optimiser, lr, total, pct_start=_WARM_UP
        )

    def take(self, logits: Tensor, labels: Tensor) -> None:
        """One step down the losses of logits [n, M] against labels [n, M]."""
        self._optimiser.zero_grad()
        self._backward(losses(logits, labels))
        nn.utils.clip_grad_norm_(self._all, _CLIP)
        self._optimiser.step()
        self._pace.step()
