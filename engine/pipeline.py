"""The stages from a dataset to an evaluated bundle; each reuses what is unchanged.

A stage's folder holds `stage.json` with a key: a hash of everything that decides the result, the
source code of the packages at work included. The same key means the same result.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from .bundle import Bundle
from .compile.export import export
from .config import Config
from .data.dataset import Dataset
from .errors import ConfigError
from .evaluation.evaluate import choose_lambda
from .evaluation.protocol import window_before
from .model.build import build_model
from .model.stars import Stars
from .training.loop import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    is_first_process,
    load_weights,
    run_fingerprint,
    train,
)

STAGE_FILE, SERVING_FILE = "stage.json", "serving.json"
_ROOT = Path(__file__).resolve().parents[1]
_TRAINING_SOURCES = (
    "kernels",
    "engine/model",
    "engine/training",
    "engine/features.py",
    "engine/repeats.py",
)
_EXPORT_SOURCES = (
    *_TRAINING_SOURCES,
    "engine/compile",
    "engine/serving",
    "engine/retrieval",
    "engine/store",
    "engine/bundle.py",
)


def train_run(dataset: Dataset, until: int, config: Config, folder: Path, quiet: bool) -> bool:
    """Trains on the days before `until`; the last 28 of them first choose λ_serve.

    A model that saw nothing of those days is trained and evaluated on them (`selection`). Then it
    is refitted for a few epochs on all days, as a shop would before it serves.

    Args:
        dataset: prepared dataset.
        until: unix seconds; nothing after it is read.
        config: model and training.
        folder: run folder.
        quiet: no progress bar.
    Returns:
        Whether anything was done: False where the folder already holds this very run.
    """
    # Under torchrun every process gets here: all train, the first one does the rest.
    key = _key(run_fingerprint(dataset, until, config), *_digests(_TRAINING_SOURCES))
    if is_made(folder, key):
        return False
    selection = folder / "selection"
    if not is_made(selection, key):
        _select(dataset, until, config, selection, quiet, key)
    if config.train.refit_epochs:
        train(dataset, until, _refit(config), folder, quiet, start=selection / WEIGHTS_FILE)
    if is_first_process():
        if not config.train.refit_epochs:
            shutil.copy(selection / WEIGHTS_FILE, folder)
        shutil.copy(selection / SERVING_FILE, folder)
        (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2))
        mark_made(folder, key)
    return True


def _select(
    dataset: Dataset, until: int, config: Config, folder: Path, quiet: bool, key: str
) -> None:
    """Trains on all but the last 28 days, and chooses λ_serve on those."""
    cut, trial, threads = window_before(dataset, until), folder / "trial", torch.get_num_threads()
    model = train(dataset, cut, config, folder, quiet)
    if not is_first_process():
        return
    export(model, dataset, config, cut, trial, 0.0, threads)
    try:
        chosen, table = choose_lambda(Bundle.open(trial), dataset, until, threads=threads)
    finally:
        shutil.rmtree(trial)
    serving = {
        "lambda_serve": chosen,
        "validation": [{"lambda": value, **measures} for value, measures in table.items()],
    }
    (folder / SERVING_FILE).write_text(json.dumps(serving, indent=2))
    mark_made(folder, key)


def _refit(config: Config) -> Config:
    """The short second training: the residuals are free from the start."""
    train = config.train
    changes = {
        "epochs": train.refit_epochs,
        "lr": train.lr * train.refit_lr_scale,
        "delta_freeze": 0.0,
        "seed": train.seed + 1,
    }
    return config.model_copy(update={"train": train.model_copy(update=changes)})


def export_run(
    dataset: Dataset, run: Path, cut: int, folder: Path, lambda_serve: float | None = None
) -> bool:
    """Exports a run to a bundle with the users' histories up to `cut`.

    Args:
        lambda_serve: None takes the run's own choice.
    Returns:
        Whether anything was done: False where the folder already holds this very bundle.
    Raises:
        ConfigError: the run is not complete.
    """
    if lambda_serve is None:
        lambda_serve = float(json.loads(_read(run / SERVING_FILE))["lambda_serve"])
    run_key = _read(run / STAGE_FILE)
    key = _key(dataset.meta.fingerprint, run_key, cut, lambda_serve, *_digests(_EXPORT_SOURCES))
    stage = folder.with_name(f"{folder.name}.stage")  # a bundle holds nothing but its own files
    if is_made(stage, key) and folder.exists():
        return False
    config, model = load_run(dataset, run)
    export(model, dataset, config, cut, folder, lambda_serve, torch.get_num_threads())
    mark_made(stage, key)
    return True


def load_run(dataset: Dataset, run: Path) -> tuple[Config, Stars]:
    """Configuration and model of a finished run.

    Raises:
        ConfigError: a file is missing, or the weights do not fit the dataset.
    """
    config = Config.model_validate_json(_read(run / CONFIG_FILE))
    model = build_model(config.model, dataset, config.train.seed)
    load_weights(model, run / WEIGHTS_FILE)
    return config, model.eval()


def is_made(folder: Path, key: str) -> bool:
    """Whether the stage in `folder` was completed with this key."""
    try:
        made: dict[str, Any] = json.loads((folder / STAGE_FILE).read_text())
    except FileNotFoundError:
        return False
    return made.get("key") == key


def mark_made(folder: Path, key: str) -> None:
    """Notes that the stage in `folder` is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STAGE_FILE).write_text(json.dumps({"key": key}))


def source_digest(*paths: str) -> str:
    """sha256 of the source files at or below the given paths of the project."""
    digest = hashlib.sha256()
    for path in paths:
        root = _ROOT / path
        for file in [root] if root.is_file() else sorted(root.rglob("*.py")):
            digest.update(file.relative_to(_ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _digests(sources: tuple[str, ...]) -> tuple[str, ...]:
    return (source_digest(*sources), torch.__version__)


def _key(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: expected a file of a finished run: {error}") from error
