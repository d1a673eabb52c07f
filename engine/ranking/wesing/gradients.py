"""One gradient of several tasks' losses: their sum, GradNorm or PCGrad."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchjd.aggregation import PCGrad

from .config import GradientsConfig

Backward = Callable[[Tensor], None]


def backward_by(
    config: GradientsConfig,
    shared: Sequence[nn.Parameter],
    towers: Sequence[nn.Parameter],
    last: Tensor,
    tasks: int,
) -> Backward:
    """A function that takes losses [M] and writes `.grad` of all parameters.

    Args:
        shared: what several tasks move.
        towers: what belongs to one task; its gradient is that of the sum (of GradNorm: weighted).
        last: of `shared`, the last layer.
        tasks: M.
    """
    if config.method == "gradnorm":
        return GradNorm(config, last, tasks)
    if config.method == "pcgrad":
        return Surgery(shared, towers)
    return summed


def summed(losses: Tensor) -> None:
    """The gradient of Σ_m L_m."""
    losses.sum().backward()  # type: ignore[no-untyped-call]


class GradNorm:
    """The gradient of Σ_m w_m L_m, Σ_m w_m = M, w so that tasks learn at one pace.

    With G_m = w_m |∇_W L_m| at the last shared layer W, and r_m the share of its first loss that
    task m still has over the mean of all, w takes a step down Σ_m |G_m - mean(G) r_m^α|, of which
    the targets are constants (Chen et al. 2018, equation 2), and is scaled to its sum again.
    """

    def __init__(self, config: GradientsConfig, last: Tensor, tasks: int) -> None:
        self.alpha, self.last = config.alpha, last
        self.weight = torch.ones(tasks, requires_grad=True)
        self._optimiser = torch.optim.Adam([self.weight], lr=config.lr)
        self._first: Tensor | None = None

    def __call__(self, losses: Tensor) -> None:
        """Writes the gradients, then moves the weights of the next step."""
        now = losses.detach()
        if self._first is None:
            self._first = now
        norms = torch.stack(
            [torch.autograd.grad(one, self.last, retain_graph=True)[0].norm() for one in losses]
        )
        (self.weight.detach() * losses).sum().backward()  # type: ignore[no-untyped-call]
        pace = now / self._first
        scaled = self.weight * norms
        target = scaled.detach().mean() * (pace / pace.mean()) ** self.alpha
        self._optimiser.zero_grad()
        (scaled - target).abs().sum().backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        with torch.no_grad():
            self.weight.clamp_(min=_LEAST)
            self.weight *= len(losses) / self.weight.sum()


_LEAST = 1e-3  # a weight below 0 would climb its loss


class Surgery:
    """Σ_m of each task's gradient, less its part against any other's original one (Yu et al. 2020).

    Only shared parameters have conflicts; the order of the projections is drawn anew each step.
    """

    def __init__(self, shared: Sequence[nn.Parameter], towers: Sequence[nn.Parameter]) -> None:
        self.shared, self.towers = list(shared), list(towers)
        self._project = PCGrad()

    def __call__(self, losses: Tensor) -> None:
        """Writes the gradients."""
        given = [*self.shared, *self.towers]
        rows = []
        for one in losses:
            found = torch.autograd.grad(
                one, given, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows.append(torch.cat([gradient.flatten() for gradient in found]))
        jacobian = torch.stack(rows)  # [M, parameters]
        split = sum(p.numel() for p in self.shared)
        joined = torch.cat([self._project(jacobian[:, :split]), jacobian[:, split:].sum(0)])
        parts = torch.split(joined, [p.numel() for p in given])
        for p, gradient in zip(given, parts, strict=True):
            p.grad = gradient.view_as(p)
