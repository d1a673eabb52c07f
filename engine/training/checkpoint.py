"""Resumable checkpoints: weights and optimiser state in safetensors, the rest in JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.errors import ConfigError

_TENSORS, _PROGRESS = "checkpoint.safetensors", "checkpoint.json"


@dataclass(frozen=True)
class Progress:
    """Where training stands: the next step overall, and the fingerprint of what is trained."""

    step: int
    fingerprint: str


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Writes the state; a crash while writing leaves the checkpoint before it."""
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = value.contiguous()
    # The step stands in both files, so that a pair from two moments is noticed.
    step = {"step": str(progress.step)}
    save_file(tensors, folder / f"{_TENSORS}.new", metadata=step)
    (folder / f"{_PROGRESS}.new").write_text(json.dumps(asdict(progress)))
    (folder / f"{_TENSORS}.new").replace(folder / _TENSORS)
    (folder / f"{_PROGRESS}.new").replace(folder / _PROGRESS)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
) -> Progress | None:
    """Restores a checkpoint of the same training, or returns None where there is none.

    Raises:
        ConfigError: the checkpoint is damaged or belongs to another configuration or dataset.
    """
    if not (folder / _PROGRESS).exists():
        return None
    try:
        progress = Progress(**json.loads((folder / _PROGRESS).read_text()))
        tensors = load_file(folder / _TENSORS)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ConfigError(f"{folder / _PROGRESS}: expected a whole checkpoint: {error}") from error
    if progress.fingerprint != fingerprint:
        raise ConfigError(
            f"{folder / _PROGRESS}: expected a checkpoint of training {fingerprint[:12]}, "
            f"got one of {progress.fingerprint[:12]}: choose another folder or delete it"
        )
    model.load_state_dict(_part(tensors, "model."))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _part(tensors, "optimizer.").items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )
    return progress


def delete_checkpoint(folder: Path) -> None:
    """Removes the checkpoint of a finished training."""
    for name in (_TENSORS, _PROGRESS):
        (folder / name).unlink(missing_ok=True)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
