"""Experts and gates: each architecture by its own sum, and which tasks move what."""

import pytest
import torch
from torch import Tensor

from engine.ranking.wesing.config import ExpertsConfig, ExpertsName
from engine.ranking.wesing.experts import ExpertGroup, Experts, within_budget

KINDS: list[ExpertsName] = ["shared_bottom", "mmoe", "cgc", "ple"]


def of(kind: ExpertsName, tasks: int = 3, **changes: int) -> Experts:
    torch.manual_seed(0)
    config = ExpertsConfig(kind=kind, hidden=5, width=4, **changes)
    return Experts(6, tasks, config).double()


def expert(group: ExpertGroup, k: int, x: Tensor) -> Tensor:
    """Of one input row, layer by layer."""
    part = slice(k * group.hidden, (k + 1) * group.hidden)
    hidden = (group.first.weight[part] @ x + group.first.bias[part]).relu()
    return (hidden @ group.weight[k] + group.bias[k]).relu()


def mixture(gate: torch.nn.Linear, x: Tensor, experts: list[Tensor]) -> Tensor:
    weight = torch.softmax(gate(x), 0)
    return sum((w * e for w, e in zip(weight, experts, strict=True)), torch.zeros(4).double())


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_its_own_sum(kind: ExpertsName) -> None:
    experts = of(kind, shared=2, specific=3)
    x = torch.randn(6).double()
    read = [x] * 4
    for level in experts.levels:
        shared = [expert(level.shared, k, read[-1]) for k in range(level.shared.n)]
        own = [[expert(g, k, y) for k in range(g.n)] for g, y in zip(level.own, read, strict=False)]
        assert len(shared) == (1 if kind == "shared_bottom" else 2)
        assert [len(mine) for mine in own] == ([3] * 3 if kind in ("cgc", "ple") else [])
        if kind == "shared_bottom":
            assert not len(level.gates)
            read = shared * 3
            continue
        seen = [mine + shared for mine in own] or [shared] * 3
        seen += [[e for mine in own for e in mine] + shared] if len(level.gates) > 3 else []
        read = [mixture(g, y, e) for g, y, e in zip(level.gates, read, seen, strict=False)]
    assert len(experts.levels) == (2 if kind == "ple" else 1)
    torch.testing.assert_close(experts(x), torch.stack(read))


@pytest.mark.parametrize("kind", KINDS)
def test_leading_dimensions_are_free(kind: ExpertsName) -> None:
    experts = of(kind)
    x = torch.randn(2, 5, 6).double()
    whole = experts(x)
    assert whole.shape == (2, 5, 3, 4)
    torch.testing.assert_close(experts(x[1, 3]), whole[1, 3])


@pytest.mark.parametrize("kind", ["cgc", "ple"])
def test_a_task_moves_the_shared_experts_and_its_own(kind: ExpertsName) -> None:
    experts = of(kind)
    torch.manual_seed(1)
    experts(torch.randn(64, 6).double())[:, 1].sum().backward()
    last = experts.levels[-1]
    assert last.shared.weight.grad.any()
    assert [bool(own.weight.grad.any()) for own in last.own] == [False, True, False]
    assert experts.last_shared() is last.shared.weight


def test_only_shared_experts_are_mmoe() -> None:
    """CGC whose gates close its own experts is MMoE with the same shared ones."""
    cgc, mmoe = of("cgc"), of("mmoe")
    ours, theirs = cgc.levels[0], mmoe.levels[0]
    theirs.shared.load_state_dict(ours.shared.state_dict())
    with torch.no_grad():
        for mine, other in zip(ours.gates, theirs.gates, strict=True):
            mine.bias[0] = -1e9
            other.weight.copy_(mine.weight[1:])
            other.bias.copy_(mine.bias[1:])
    x = torch.randn(7, 6).double()
    torch.testing.assert_close(cgc(x), mmoe(x))


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_is_filled_and_kept(kind: ExpertsName) -> None:
    budget = 20_000
    config = within_budget(40, 3, ExpertsConfig(kind=kind), budget)
    counted = sum(p.numel() for p in Experts(40, 3, config).parameters())
    wider = config.model_copy(update={"hidden": config.hidden + 1})
    assert counted <= budget < sum(p.numel() for p in Experts(40, 3, wider).parameters())
    with pytest.raises(ValueError, match=f"experts {kind}: expected .* parameters or more, got 10"):
        within_budget(40, 3, ExpertsConfig(kind=kind), 10)


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an input and a task at least, got 0 and 2"):
        Experts(0, 2, ExpertsConfig())
