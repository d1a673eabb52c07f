"""The fusing network: what it starts as, what it may not change, and what it is built of."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from onnxruntime import InferenceSession
from pydantic import ValidationError
from torch import Tensor

from engine.ranking.config import EnsembleConfig
from engine.ranking.ensemble import Ensemble


@pytest.fixture
def network() -> Ensemble:
    torch.manual_seed(0)
    return Ensemble(EnsembleConfig(objectives=3, user_dim=5))


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.rand(40, 3, generator=generator),
        torch.rand(40, 3, generator=generator),
        torch.randn(40, 5, generator=generator),
    )


def moved(network: Ensemble) -> Ensemble:
    """With s_rel at work, as after training."""
    torch.nn.init.normal_(network.read[2].weight)
    return network


def test_it_starts_as_the_gated_sum_of_logits(
    network: Ensemble, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    probability, _, user = inputs
    related, agnostic = network.parts(*inputs)
    assert not related.any()
    expected = (F.softplus(network.gate(user)) * torch.logit(probability)).sum(1)
    torch.testing.assert_close(agnostic, expected)
    torch.testing.assert_close(network(*inputs), expected)


def test_the_agnostic_part_never_falls_with_an_objective(
    network: Ensemble, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    probability, rank, user = inputs
    torch.nn.init.normal_(network.gate[2].bias, std=5.0)
    before = network.parts(probability, rank, user).agnostic
    for m in range(3):
        raised = probability.clone()
        raised[:, m] += 0.5 * (1 - raised[:, m])
        assert (network.parts(raised, rank, user).agnostic > before).all()


def test_no_gradient_reaches_the_upstream_ranker(
    network: Ensemble, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    probability, rank, user = inputs
    upstream = probability.clone().requires_grad_()
    moved(network)(upstream, rank, user.requires_grad_()).sum().backward()
    assert upstream.grad is None
    assert user.grad is not None
    assert user.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_each_objective_the_user_and_the_ranks_count(
    network: Ensemble, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    moved(network)
    before = network.parts(*inputs).related
    for position in range(3):
        for column in range(inputs[position].shape[1]):
            changed = [x.clone() for x in inputs]
            changed[position][:, column] *= 0.5
            assert (network.parts(*changed).related != before).all()


def test_candidates_are_scored_alone_and_certainty_is_finite(
    network: Ensemble, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    moved(network)
    together = network(*inputs)
    torch.testing.assert_close(network(*(x[7:8] for x in inputs)), together[7:8])
    sure = torch.tensor([[0.0, 1.0, 0.5]])
    assert network(sure, sure, inputs[2][:1]).isfinite().all()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="heads: expected a divisor of d_model 16, got 3"):
        EnsembleConfig(objectives=3, user_dim=5, heads=3)
    with pytest.raises(ValidationError, match="extra"):
        EnsembleConfig.model_validate({"objectives": 1, "user_dim": 1, "depth": 2})


def test_onnx_runtime_scores_as_torch_whatever_the_number_of_candidates(
    network: Ensemble, inputs: tuple[Tensor, Tensor, Tensor], tmp_path: Path
) -> None:
    moved(network).eval()
    names = ["probability", "rank", "user"]
    torch.onnx.export(
        network, inputs, str(tmp_path / "ensemble.onnx"), dynamo=True, verbose=False,
        input_names=names, dynamic_shapes=tuple({0: torch.export.Dim.AUTO} for _ in names),
    )  # fmt: skip
    session = InferenceSession(tmp_path / "ensemble.onnx")
    for n in (1, 7, 40):
        few = [x[:n] for x in inputs]
        (found,) = session.run(None, {k: x.numpy() for k, x in zip(names, few, strict=True)})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), network(*few))
