"""One gradient of several: what is left alone, what is projected, whose weight grows."""

import pytest
import torch
from torch import Tensor, nn

from engine.ranking.wesing.config import GradientsConfig
from engine.ranking.wesing.gradients import GradNorm, Surgery, backward_by, summed


def parameters() -> tuple[nn.Parameter, nn.Parameter]:
    return nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))


def linear(p: nn.Parameter, tower: nn.Parameter, rows: list[list[float]]) -> Tensor:
    """Losses of which the gradients are the rows, each with the tower's part 1."""
    return torch.tensor(rows) @ p + tower


def test_surgery_leaves_gradients_without_a_conflict_untouched() -> None:
    p, tower = parameters()
    Surgery([p], [tower])(linear(p, tower, [[1.0, 0.0], [1.0, 2.0], [0.0, 3.0]]))
    assert p.grad is not None
    assert tower.grad is not None
    torch.testing.assert_close(p.grad, torch.tensor([2.0, 5.0]))
    assert tower.grad.tolist() == [3.0]


def test_surgery_projects_each_off_the_others_original() -> None:
    p, tower = parameters()
    Surgery([p], [tower])(linear(p, tower, [[1.0, 0.0], [-1.0, 1.0]]))
    # (1, 0) less its part along (-1, 1), and (-1, 1) less its part along (1, 0)
    assert p.grad is not None
    torch.testing.assert_close(p.grad, torch.tensor([0.5, 0.5]) + torch.tensor([0.0, 1.0]))
    assert tower.grad is not None
    assert tower.grad.tolist() == [2.0]


def test_surgery_takes_a_task_that_does_not_move_a_parameter() -> None:
    p, tower = parameters()
    other = nn.Parameter(torch.ones(1))
    Surgery([p, other], [tower])(torch.stack([p.sum() + tower[0], other[0] * 2]))
    assert p.grad is not None
    assert other.grad is not None
    assert p.grad.tolist() == [1.0, 1.0]
    assert other.grad.tolist() == [2.0]


def test_gradnorm_raises_the_weight_of_the_small_gradient() -> None:
    p, tower = parameters()
    step = GradNorm(GradientsConfig(method="gradnorm", lr=0.1), p, 2)
    for _ in range(100):
        p.grad = tower.grad = None
        step(linear(p, tower, [[4.0, 0.0], [0.0, 1.0]]) + 1)
    # Losses do not change, so G is to be equal: w = (2/5, 8/5).
    torch.testing.assert_close(step.weight.sum(), torch.tensor(2.0))
    torch.testing.assert_close(step.weight.detach(), torch.tensor([0.4, 1.6]), atol=0.1, rtol=0)
    assert p.grad is not None
    torch.testing.assert_close(p.grad, torch.tensor([1.6, 1.6]), atol=0.3, rtol=0)


def test_gradnorm_pulls_up_the_task_that_learns_slowly() -> None:
    p, tower = parameters()
    step = GradNorm(GradientsConfig(method="gradnorm", alpha=1.5, lr=0.05), p, 2)
    step(linear(p, tower, [[1.0, 0.0], [0.0, 1.0]]) + 1)
    for _ in range(50):
        step(linear(p, tower, [[1.0, 0.0], [0.0, 1.0]]) + torch.tensor([0.5, 1.0]))
    assert step.weight[1] > 1.2 > 0.8 > step.weight[0] > 0


def test_gradnorm_starts_as_the_sum_and_keeps_out_of_the_weights_gradient() -> None:
    p, tower = parameters()
    step = GradNorm(GradientsConfig(method="gradnorm"), p, 2)
    step(linear(p, tower, [[4.0, 0.0], [0.0, 1.0]]) + 1)
    assert p.grad is not None
    assert p.grad.tolist() == [4.0, 1.0]


@pytest.mark.parametrize(
    ("method", "kind"), [("sum", None), ("gradnorm", GradNorm), ("pcgrad", Surgery)]
)
def test_the_method_is_chosen_by_configuration(method: str, kind: type | None) -> None:
    p, tower = parameters()
    config = GradientsConfig.model_validate({"method": method})
    backward = backward_by(config, [p], [tower], p, 2)
    assert backward is summed if kind is None else isinstance(backward, kind)
    backward(linear(p, tower, [[1.0, 0.0], [0.0, 1.0]]) + 1)
    assert p.grad is not None
    assert p.grad.tolist() == [1.0, 1.0]
