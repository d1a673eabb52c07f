"""Training: one-cycle AdamW over windows, resumable, on one process or several (torchrun)."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from engine.config import Config
from engine.data.dataset import Dataset
from engine.errors import ConfigError
from engine.model.build import build_model
from engine.model.stars import Stars

from . import checkpoint
from .average import WeightAverage
from .batches import Batches
from .history import Past, past
from .loss import Losses, Objective
from .warm_start import cooccurrence_factors

CONTEXT_WEIGHT, SIGNAL = "context_weight", "signal"  # parameters with a row a signal, at the end
WEIGHTS_FILE, CONFIG_FILE, METRICS_FILE = "model.safetensors", "config.json", "metrics.jsonl"
_LOG_STEPS = 20


def train(
    dataset: Dataset,
    cut: int,
    config: Config,
    folder: Path,
    quiet: bool = False,
    start: Path | None = None,
    only_context: Sequence[str] | None = None,
) -> Stars:
    """Trains a model on the events before `cut` and stores it in `folder`.

    An interrupted training goes on from its last checkpoint. Under `torchrun` each process takes
    its share of every batch; the first one writes.

    Args:
        dataset: prepared dataset.
        cut: unix seconds; no later event is read.
        config: model and training.
        folder: run folder: resolved configuration, metrics, checkpoint, weights.
        quiet: no progress bar.
        start: weights to begin with, of the same configuration; None begins with fresh ones.
        only_context: the names of the signals that `start` knows: W_ctx alone is trained, and a
            signal that is not among them begins at 0. None trains everything.
    Raises:
        ConfigError: the folder holds a checkpoint of another training, or `start` does not fit.
    """
    rank, world = _join_processes()
    history = past(dataset, cut, config.train.alpha, config.train.repeat_types)
    batches = Batches(history, config, rank, world)
    device = _device(rank)
    model = build_model(config.model, dataset, config.train.seed)
    if start is None:
        _standardise_repeats(model, history, config)
        if config.train.delta_start == "cooccurrence":
            factors = cooccurrence_factors(history, model.items.delta.shape[1])
            with torch.no_grad():
                model.items.delta.copy_(torch.from_numpy(factors))
    elif only_context is None:
        load_weights(model, start)
    elif not config.model.context:
        raise ConfigError(f"{start}: context: expected a model that has it, to train it alone")
    else:
        load_weights(model, start, only_context, [signal.name for signal in dataset.meta.signals])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name == CONTEXT_WEIGHT)
    objective = Objective(model, config.train, torch.from_numpy(history.log_p)).to(device)
    optimizer = _optimizer(model, config)
    total = max(round(config.train.epochs * batches.steps()), 1)
    fingerprint = run_fingerprint(dataset, cut, config, world, start, only_context)
    average = WeightAverage(model, config.train.average) if config.train.average else None
    means: dict[str, Tensor] = {}
    progress = checkpoint.load_checkpoint(folder, model, optimizer, fingerprint, means)
    if average is not None:
        average.restore(means)
    first = progress.step if progress else 0
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2))
        _keep_log(folder, first)

    wrapped = _parallel(objective, config) if world > 1 else objective
    run = _Run(wrapped, model, optimizer, config, batches, device, total, rank)
    with _progress(quiet or rank > 0) as bar:
        task = bar.add_task("train", total=total, completed=first, loss=float("nan"))
        for step in range(first, total):
            losses = run.step(step)
            if average is not None:
                average.update(step)
            if rank == 0 and (step % _LOG_STEPS == 0 or step + 1 == total):
                _log(folder, step, batches.steps(), run.lr(step), losses)
                bar.update(task, loss=float(losses.total.detach()))
            bar.advance(task)
            if rank == 0 and (step + 1) % config.train.checkpoint_steps == 0:
                state = checkpoint.Progress(step + 1, fingerprint)
                kept = average.values if average is not None else None
                checkpoint.save_checkpoint(folder, model, optimizer, state, kept)
    if average is not None:
        average.apply()
    if rank == 0:
        save_weights(model, folder)
        checkpoint.delete_checkpoint(folder)
    if world > 1:
        dist.barrier()
    return model.cpu().eval()


class _Run:
    """Steps of one training; every step depends on its number alone, so that resuming is exact."""

    def __init__(
        self,
        objective: nn.Module,
        model: Stars,
        optimizer: torch.optim.Optimizer,
        config: Config,
        batches: Batches,
        device: torch.device,
        total: int,
        rank: int,
    ) -> None:
        self._objective, self._model, self._optimizer = objective, model, optimizer
        self._config, self._batches, self._device = config.train, batches, device
        self._total, self._epoch_steps, self._rank = total, batches.steps(), rank
        self._epoch = -1
        self._groups = [list(group["params"]) for group in optimizer.param_groups]
        self._base_lr = [float(group["lr"]) for group in optimizer.param_groups]

    def lr(self, step: int) -> float:
        """Share of the top rate: linear warm-up, then a half cosine to 0."""
        warm = max(round(self._config.warmup * self._total), 1)
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(self._total - warm, 1)
        return 0.5 * (1 + float(torch.cos(torch.tensor(done * torch.pi))))

    def _seed(self, step: int) -> int:
        """Seed of the step's dropout, another one for each process."""
        words = np.random.SeedSequence((self._config.seed, step, self._rank)).generate_state(1)
        return int(words[0])

    def step(self, step: int) -> Losses:
        """One optimiser step."""
        epoch, inside = divmod(step, self._epoch_steps)
        if epoch != self._epoch:
            self._epoch, self._stream = epoch, self._batches.epoch(epoch, inside)
        batch = next(self._stream).to(self._device)
        frozen = step < self._config.delta_freeze * self._epoch_steps
        for group, base in zip(self._optimizer.param_groups, self._base_lr, strict=True):
            group["lr"] = base * self.lr(step) * (0.0 if frozen and group["delta"] else 1.0)
        torch.manual_seed(self._seed(step))
        self._objective.train()
        with _precision(self._config.precision, self._device):
            losses: Losses = self._objective(batch)
        losses.total.backward()  # type: ignore[no-untyped-call]
        for parameters in self._groups:
            nn.utils.clip_grad_norm_(parameters, self._config.clip)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return losses


def run_fingerprint(
    dataset: Dataset,
    cut: int,
    config: Config,
    world: int = 1,
    start: Path | None = None,
    only_context: Sequence[str] | None = None,
) -> str:
    """sha256 of all that decides the outcome of a training."""
    began = hashlib.sha256(start.read_bytes()).hexdigest() if start else ""
    parts = [dataset.meta.fingerprint, str(cut), config.model_dump_json(), str(world), began]
    parts += [] if only_context is None else ["only context", *only_context]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def save_weights(model: Stars, folder: Path) -> None:
    """Writes the weights of a finished training."""
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / f"{WEIGHTS_FILE}.new")
    (folder / f"{WEIGHTS_FILE}.new").replace(folder / WEIGHTS_FILE)


def load_weights(
    model: Stars, path: Path, before: Sequence[str] = (), now: Sequence[str] = ()
) -> None:
    """Reads weights that `save_weights` wrote.

    Args:
        before, now: names of the signals that the weights know, and of the model's. What a signal
            has learned goes with its name; a new one has 0.
    Raises:
        ConfigError: the file is missing or its weights do not fit the model.
    """
    try:
        weights = load_file(path)
        if list(before) != list(now):
            for name in (CONTEXT_WEIGHT, SIGNAL):
                n_others = len(weights[name]) - len(before)
                others, known = weights[name][:n_others], weights[name][n_others:]
                rows = torch.zeros(len(now), others.shape[1])
                for place, signal in enumerate(now):
                    if signal in before:
                        rows[place] = known[before.index(signal)]
                weights[name] = torch.cat([others, rows])
        model.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{path}: expected weights that fit this model: {error}") from error


def _optimizer(model: Stars, config: Config) -> torch.optim.Optimizer:
    """AdamW in three groups: matrices with decay, vectors and tables of bias without, Δ slowly."""
    delta = model.items.delta
    rest = [p for p in model.parameters() if p is not delta and p.requires_grad]
    lr, decay = config.train.lr, config.train.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": decay, "delta": False},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "delta": False},
        {
            "params": [delta] if delta.requires_grad else [],
            "weight_decay": decay,
            "lr": lr * config.train.delta_lr_scale,
            "delta": True,
        },
    ]
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def _standardise_repeats(model: Stars, history: Past, config: Config) -> None:
    """Fixes the scale of the repeat features from the first batch of a fixed draw."""
    sample = next(Batches(history, config).epoch(0)).candidates.features
    if len(sample) > 1:
        model.repeats.standardise(sample)


def is_first_process() -> bool:
    """Whether this process writes: the only one, or the first of torchrun's."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _join_processes() -> tuple[int, int]:
    """Rank and number of processes; joins torchrun's group when there is one."""
    if not dist.is_torchelastic_launched():
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def _device(rank: int) -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", rank % torch.cuda.device_count())
    return torch.device("cpu")


def _parallel(objective: nn.Module, config: Config) -> nn.Module:
    """The objective with gradients averaged over the processes; buffers are the same anyway."""
    model = config.model
    losses = config.train.lambda_gen and config.train.lambda_aux
    unused = model.pooling == "cls" or not (model.repeats and losses)
    return DistributedDataParallel(
        objective, broadcast_buffers=False, find_unused_parameters=unused
    )


def _precision(precision: str, device: torch.device) -> Any:
    """Mixed precision where the device has it; fp32 on a CPU unless asked otherwise."""
    if precision == "fp32" or (precision == "auto" and device.type == "cpu"):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _progress(quiet: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
        disable=quiet,
    )


def _log(folder: Path, step: int, epoch_steps: int, lr: float, losses: Losses) -> None:
    values: dict[str, Tensor] = {f.name: getattr(losses, f.name) for f in fields(losses)}
    record = {"step": step, "epoch": round(step / epoch_steps, 3), "lr_share": round(lr, 5)}
    record |= {name: round(float(value.detach()), 5) for name, value in values.items()}
    with (folder / METRICS_FILE).open("a") as file:
        file.write(json.dumps(record) + "\n")


def _keep_log(folder: Path, first: int) -> None:
    """Drops records from step `first` on: that step runs again, or they are an older training's."""
    path = folder / METRICS_FILE
    whole = path.read_text().split("\n")[:-1] if path.exists() else []
    kept = [line for line in whole if json.loads(line)["step"] < first]
    path.write_text("".join(f"{line}\n" for line in kept))
