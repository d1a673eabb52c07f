"""What the tasks share: a shared bottom, MMoE, CGC or PLE, by one configuration."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ExpertsConfig


class ExpertGroup(nn.Module):
    """n experts of two layers that read one input: [..., D] to [..., n, width]."""

    def __init__(self, n: int, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.n, self.hidden = n, hidden
        self.first = nn.Linear(inputs, n * hidden)
        self.weight = nn.Parameter(torch.randn(n, hidden, width) * (2 / hidden) ** 0.5)
        self.bias = nn.Parameter(torch.zeros(n, width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., n, width] of x [..., D]."""
        read = F.relu(self.first(x)).reshape(*x.shape[:-1], self.n, self.hidden)
        return F.relu(torch.einsum("...nh,nhw->...nw", read, self.weight) + self.bias)


class Level(nn.Module):
    """Each task's mixture of its own experts and the shared ones, by a softmax gate of its own.

    With `passes_on` there is one mixture more, of all experts: what the next level's shared experts
    read. A mixture of one expert is that expert.
    """

    def __init__(
        self, inputs: int, tasks: int, config: ExpertsConfig, *, passes_on: bool = False
    ) -> None:
        super().__init__()
        alone = config.kind == "shared_bottom"
        shared = 1 if alone else config.shared
        own = config.specific if config.kind in ("cgc", "ple") else 0
        self.tasks, self.passes_on = tasks, passes_on
        self.shared = ExpertGroup(shared, inputs, config.hidden, config.width)
        self.own = nn.ModuleList(
            ExpertGroup(own, inputs, config.hidden, config.width)
            for _ in range(tasks if own else 0)
        )
        mixed = [own + shared] * tasks + ([tasks * own + shared] if passes_on else [])
        self.gates = nn.ModuleList(nn.Linear(inputs, n) for n in mixed if n > 1)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """[..., width] of each task (and of the next level's shared experts).

        Args:
            inputs: [..., D] of each task and, last, of the shared experts.
        """
        shared = self.shared(inputs[-1])  # [..., n, width]
        own = [group(x) for group, x in zip(self.own, inputs[:-1], strict=False)]
        mixed = [torch.cat([one, shared], -2) for one in own] or [shared] * self.tasks
        if self.passes_on:
            mixed.append(torch.cat([*own, shared], -2))
        if not self.gates:
            return [experts[..., 0, :] for experts in mixed]
        return [
            (torch.softmax(gate(x), -1)[..., None] * experts).sum(-2)
            for gate, x, experts in zip(self.gates, inputs, mixed, strict=False)
        ]


class Experts(nn.Module):
    """[..., D] to one representation a task, [..., M, width]."""

    def __init__(self, inputs: int, tasks: int, config: ExpertsConfig) -> None:
        """Raises ValueError for no input or no task."""
        super().__init__()
        if inputs < 1 or tasks < 1:
            raise ValueError(
                f"Experts: expected an input and a task at least, got {inputs} and {tasks}"
            )
        levels = config.levels if config.kind == "ple" else 1
        self.tasks = tasks
        self.levels = nn.ModuleList(
            Level(inputs if not k else config.width, tasks, config, passes_on=k + 1 < levels)
            for k in range(levels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., M, width] of x [..., D]."""
        read = [x] * (self.tasks + 1)
        for level in self.levels:
            read = level(read)
        return torch.stack(read, -2)

    def last_shared(self) -> Tensor:
        """Weights of the last layer that all tasks read, where GradNorm takes its norms."""
        level = self.levels[-1]
        assert isinstance(level, Level)
        return level.shared.weight


def within_budget(inputs: int, tasks: int, config: ExpertsConfig, budget: int) -> ExpertsConfig:
    """The configuration with the widest `hidden` whose parameters are at most `budget`.

    Raises:
        ValueError: even one hidden unit has more.
    """
    one, two = (_parameters(inputs, tasks, config, hidden) for hidden in (1, 2))
    if one > budget:
        raise ValueError(f"experts {config.kind}: expected {one} parameters or more, got {budget}")
    # Each hidden unit costs the same.
    return config.model_copy(update={"hidden": 1 + (budget - one) // (two - one)})


def _parameters(inputs: int, tasks: int, config: ExpertsConfig, hidden: int) -> int:
    with torch.device("meta"):
        experts = Experts(inputs, tasks, config.model_copy(update={"hidden": hidden}))
    return sum(p.numel() for p in experts.parameters())
