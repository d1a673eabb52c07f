import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.errors import ConfigError
from engine.training.checkpoint import (
    CHECKPOINT_FILE,
    Progress,
    delete_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

OURS = "0123456789abcdef"


def trained(steps: int, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    for _ in range(steps):
        step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.linspace(-1, 1, 6).view(2, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_a_restored_training_goes_on_as_the_other_would(tmp_path: Path) -> None:
    model, optimizer = trained(3)
    save_checkpoint(tmp_path, model, optimizer, Progress(3, OURS))
    other, other_optimizer = trained(0, seed=1)
    assert load_checkpoint(tmp_path, other, other_optimizer, OURS) == Progress(3, OURS)
    for _ in range(2):
        step(model, optimizer)
        step(other, other_optimizer)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_no_checkpoint_is_no_progress(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    assert load_checkpoint(tmp_path, model, optimizer, OURS) is None
    save_checkpoint(tmp_path, model, optimizer, Progress(1, OURS))
    delete_checkpoint(tmp_path)
    delete_checkpoint(tmp_path)
    assert load_checkpoint(tmp_path, model, optimizer, OURS) is None
    assert not list(tmp_path.iterdir())


def test_a_crash_while_writing_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained(1)
    save_checkpoint(tmp_path, model, optimizer, Progress(1, OURS))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, optimizer)

    def crash(*_: object) -> None:
        raise OSError("no power")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", crash)
        with pytest.raises(OSError, match="no power"):
            save_checkpoint(tmp_path, model, optimizer, Progress(2, OURS))
    assert load_checkpoint(tmp_path, model, optimizer, OURS) == Progress(1, OURS)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    save_checkpoint(tmp_path, model, optimizer, Progress(1, "f" * 64))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step(model, optimizer)
    after = {name: value.clone() for name, value in model.state_dict().items()}
    text = (
        f"{tmp_path / CHECKPOINT_FILE}: expected a checkpoint of training 0123456789ab, "
        "got one of ffffffffffff: choose another folder or delete it"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(text)}$"):
        load_checkpoint(tmp_path, model, optimizer, OURS)
    assert all(torch.equal(after[n], v) for n, v in model.state_dict().items())
    assert not all(torch.equal(before[n], v) for n, v in model.state_dict().items())


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "no metadata", "no step"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    model, optimizer = trained(1)
    save_checkpoint(tmp_path, model, optimizer, Progress(1, OURS))
    path = tmp_path / CHECKPOINT_FILE
    content = path.read_bytes()
    if damage == "no metadata":
        save_file({"model.x": torch.zeros(1)}, path)
    elif damage == "no step":
        save_file({"model.x": torch.zeros(1)}, path, metadata={"fingerprint": OURS})
    else:
        path.write_bytes({"cut": content[:-9], "noise": b"{}" * 99, "empty": b""}[damage])
    with pytest.raises(
        ConfigError, match=r"checkpoint\.safetensors: expected a whole checkpoint: .+"
    ):
        load_checkpoint(tmp_path, model, optimizer, OURS)
