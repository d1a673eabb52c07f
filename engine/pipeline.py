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
from safetensors import SafetensorError
from safetensors.torch import load_file

from .bundle import Bundle
from .compile.export import export
from .config import Config
from .data.dataset import Dataset
from .errors import ConfigError
from .evaluation.evaluate import choose_lambda
from .model.build import build_model
from .model.stars import Stars
from .training.loop import CONFIG_FILE, WEIGHTS_FILE, run_fingerprint, train

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


def train_run(
    dataset: Dataset, cut: int, validation_end: int, config: Config, folder: Path, quiet: bool
) -> bool:
    """Trains on events before `cut`, then chooses λ_serve on the sessions up to `validation_end`.

    Args:
        dataset: prepared dataset.
        cut, validation_end: unix seconds; the model sees nothing after `cut`.
        config: model and training.
        folder: run folder.
        quiet: no progress bar.
    Returns:
        Whether anything was done: False where the folder already holds this very run.
    """
    key = _key(run_fingerprint(dataset, cut, config), validation_end, *_digests(_TRAINING_SOURCES))
    if is_made(folder, key):
        return False
    model = train(dataset, cut, config, folder, quiet)
    trial = folder / "validation"
    export(model, dataset, config, cut, trial, 0.0, torch.get_num_threads())
    try:
        chosen, table = choose_lambda(
            Bundle.open(trial), dataset, validation_end, threads=torch.get_num_threads()
        )
    finally:
        shutil.rmtree(trial)
    serving = {
        "lambda_serve": chosen,
        "validation": [{"lambda": value, **measures} for value, measures in table.items()],
    }
    (folder / SERVING_FILE).write_text(json.dumps(serving, indent=2))
    mark_made(folder, key)
    return True


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
    try:
        model.load_state_dict(load_file(run / WEIGHTS_FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(
            f"{run / WEIGHTS_FILE}: expected the weights of a finished run of this dataset: {error}"
        ) from error
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
