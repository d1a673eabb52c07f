from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import engine.training.loop as loop
from engine.training.average import WeightAverage
from engine.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from tests.tiny import cut_of, tiny_config, tiny_shop


def test_the_mean_is_the_recursions() -> None:
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    average = WeightAverage(model, 0.6)
    mean = model.weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            model.weight += torch.tensor([[1.0, -0.5 * step]])
        average.update(step)
        decay = min(0.6, (step + 1) / (step + 11))
        mean = decay * mean + (1 - decay) * model.weight.detach()
    assert list(average.values) == ["weight"]
    torch.testing.assert_close(average.values["weight"], mean)
    average.apply()
    torch.testing.assert_close(model.weight.detach(), mean)


def train(folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    config = tiny_config(epochs=1.0, checkpoint_steps=1, **changes)
    shop = tiny_shop()
    return loop.train(shop, cut_of(shop, 0.8), config, folder, quiet=True).state_dict()


def test_a_training_keeps_the_mean_and_learns_without_it(tmp_path: Path) -> None:
    plain, averaged = train(tmp_path / "plain"), train(tmp_path / "averaged", average=0.5)
    assert not torch.equal(plain["head_next.weight"], averaged["head_next.weight"])
    stored = load_file(tmp_path / "averaged" / loop.WEIGHTS_FILE)
    assert all(torch.equal(stored[name], averaged[name]) for name in averaged)
    # A decay so small that the mean is all but the last weights: steps saw nothing of the mean.
    last = train(tmp_path / "last", average=1e-12)
    assert all(torch.allclose(plain[name], last[name]) for name in plain)


def test_an_interrupted_training_goes_on_with_its_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", average=0.9)
    step = loop._Run.step

    def fail(self: loop._Run, at: int) -> object:
        if at == 3:
            raise KeyboardInterrupt
        return step(self, at)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "step", fail)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", average=0.9)
    parts = train(tmp_path / "parts", average=0.9)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_checkpoint_holds_the_mean(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    mean = {"weight": torch.full((2, 2), 3.0)}
    save_checkpoint(tmp_path, model, optimizer, Progress(1, "x"), mean)
    read: dict[str, torch.Tensor] = {}
    assert load_checkpoint(tmp_path, model, optimizer, "x", read) == Progress(1, "x")
    assert read.keys() == mean.keys()
    assert torch.equal(read["weight"], mean["weight"])
