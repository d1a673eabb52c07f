"""The model on Triton's kernels (in the interpreter without a GPU) and on the references."""

import pytest
import torch

from engine.config import Config
from engine.data.dataset import Dataset
from engine.evaluation.protocol import Cuts
from engine.model.build import build_model
from engine.training.batches import Batches
from engine.training.history import past
from engine.training.loss import Objective
from kernels.launch import recording


def test_a_training_step_on_the_kernels_equals_the_reference(
    dataset: Dataset, cuts: Cuts, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and every gradient, through all three operators that training uses."""
    train = tiny_config.train.model_copy(update={"batch_size": 3})
    config = tiny_config.model_copy(update={"train": train})
    history = past(dataset, cuts.test, train.alpha, train.repeat_types)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = next(iter(Batches(history, config, 0, 1).epoch(0, 0))).to(device)
    log_p = torch.from_numpy(history.log_p)
    gradients, launched = {}, {}
    for backend in ("reference", "triton"):
        monkeypatch.setenv("STARS_KERNELS", backend)
        model = build_model(config.model, dataset, train.seed).eval()
        with torch.no_grad():
            # From 0 these would hide whatever is wrong with their gradients.
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.sin(torch.arange(parameter.numel())).view_as(parameter))
        with recording() as launches:
            loss = Objective(model, train, log_p).to(device)(batch).total
            loss.backward()
        launched[backend] = {launch.name for launch in launches}
        gradients[backend] = {
            "loss": loss.detach(),
            **{n: p.grad for n, p in model.named_parameters() if p.grad is not None},
        }
    assert launched["reference"] == set()
    assert len(launched["triton"]) > 10
    assert set(gradients["triton"]) == set(gradients["reference"])
    assert len(gradients["triton"]) > 20
    for name, expected in gradients["reference"].items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(
            gradients["triton"][name], expected, rtol=1e-3, atol=1e-4 * scale + 1e-7, msg=name
        )
