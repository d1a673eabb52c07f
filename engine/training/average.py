"""The mean over the steps' weights, which generalises better than the last step's.

An exponential mean (Polyak averaging): its decay is smaller at first, so that fresh weights fade.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

_RAMP = 10  # steps after which the decay is a half


class WeightAverage:
    """Running mean of a model's trained parameters.

    Attributes:
        values: parameter name -> mean.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """decay: weight of the mean so far at each step, in [0, 1)."""
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._decay = decay
        self.values = {name: p.detach().clone() for name, p in self._parameters.items()}

    def update(self, step: int) -> None:
        """mean ← d · mean + (1 − d) · weights with d = min(decay, (step + 1) / (step + 1 + 10))."""
        decay = min(self._decay, (step + 1) / (step + 1 + _RAMP))
        means = list(self.values.values())
        now = [self._parameters[name].detach() for name in self.values]
        torch._foreach_lerp_(means, now, 1 - decay)

    def restore(self, values: Mapping[str, Tensor]) -> None:
        """Goes on from the mean of a checkpoint."""
        for name, value in values.items():
            self.values[name].copy_(value)

    def apply(self) -> None:
        """Puts the mean in the place of the model's weights."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self.values[name])
