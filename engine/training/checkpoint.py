"""Resumable checkpoints: weights and optimiser state in one safetensors file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.errors import ConfigError

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where training stands: the next step overall, and the fingerprint of what is trained."""

    step: int
    fingerprint: str


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    average: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the state; a crash while writing leaves the checkpoint before it.

    Args:
        average: the mean over the steps' weights so far, by name; None where none is kept.
    """
    tensors = {f"model.{name}": value.contiguous() for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            tensors[f"optimizer.{index}.{name}"] = value.contiguous()
    tensors |= {f"average.{name}": value for name, value in (average or {}).items()}
    # One file, so that tensors and step are always of the same moment.
    metadata = {name: str(value) for name, value in asdict(progress).items()}
    save_file(tensors, folder / f"{CHECKPOINT_FILE}.new", metadata=metadata)
    (folder / f"{CHECKPOINT_FILE}.new").replace(folder / CHECKPOINT_FILE)


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    fingerprint: str,
    average: dict[str, Tensor] | None = None,
) -> Progress | None:
    """Restores a checkpoint of the same training, or returns None where there is none.

    Args:
        average: takes the mean over the steps' weights; None where none is kept.
    Raises:
        ConfigError: the checkpoint is damaged or belongs to another configuration or dataset.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            metadata = file.metadata() or {}
            progress = Progress(int(metadata["step"]), metadata["fingerprint"])
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise ConfigError(f"{path}: expected a whole checkpoint: {error!r}") from error
    if progress.fingerprint != fingerprint:
        raise ConfigError(
            f"{path}: expected a checkpoint of training {fingerprint[:12]}, "
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
    if average is not None:
        average.update(_part(tensors, "average."))
    return progress


def delete_checkpoint(folder: Path) -> None:
    """Removes the checkpoint of a finished training."""
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
