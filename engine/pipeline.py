"""The stages from a dataset to an evaluated bundle; each reuses what is unchanged.

A stage's folder holds `stage.json` with a key: a hash of everything that decides the result, the
source code included. The same key means the same result.
"""

import hashlib
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from .bundle import RANKER_FOLDER, Bundle
from .compile.export import export
from .config import Config, TrainConfig
from .data.dataset import Dataset
from .errors import ConfigError
from .evaluation.discovery import fit_discovery
from .evaluation.evaluate import choose_lambda
from .evaluation.protocol import window_before
from .model.build import build_model
from .model.stars import Stars
from .training.checkpoint import delete_checkpoint
from .training.loop import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    is_first_process,
    load_weights,
    run_fingerprint,
    train,
)

STAGE_FILE, SERVING_FILE, SIGNALS_FILE = "stage.json", "serving.json", "signals.json"
_TRIAL = "trial"
_ROOT = Path(__file__).resolve().parents[1]
_ONLY_TALK = ("engine/cli.py", "engine/demo.py")  # these change what is said, not what is made


def train_run(dataset: Dataset, until: int, config: Config, folder: Path, quiet: bool) -> bool:
    """Trains on the days before `until`; the last 28 of them first choose what serving adds.

    A model that saw nothing of those days is trained and evaluated on them (`selection`): λ_serve,
    and the weights that order never-bought items. Then it is refitted for a few epochs on all days,
    as a shop would before it serves.

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
    key = stage_key(run_fingerprint(dataset, until, config))
    if is_made(folder, key):
        return False
    begin(folder, key)
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
        _write_signals(dataset, folder)
        mark_made(folder, key)
    return True


def train_context(
    dataset: Dataset, until: int, train_config: TrainConfig, base: Path, folder: Path, quiet: bool
) -> bool:
    """Trains W_ctx of a finished run alone, on a dataset that may have other signals.

    The encoder, the items and λ_serve stay as they are: stored vectors keep their meaning.

    Args:
        dataset: of the same items and users as the run's.
        until: unix seconds; nothing after it is read.
        train_config: of this training; the model's shape is the run's.
        base: folder of the finished run.
        folder: of the new run.
    Returns:
        Whether anything was done.
    Raises:
        ConfigError: the run is not finished or does not fit the dataset.
    """
    config = Config(model=read_config(base).model, train=train_config)
    start, signals = base / WEIGHTS_FILE, json.loads(_read(base / SIGNALS_FILE))
    key = stage_key(run_fingerprint(dataset, until, config, 1, start, signals))
    if is_made(folder, key):
        return False
    begin(folder, key)
    train(dataset, until, config, folder, quiet, start, signals)
    if is_first_process():
        shutil.copy(base / SERVING_FILE, folder)
        _write_signals(dataset, folder)
        mark_made(folder, key)
    return True


def _write_signals(dataset: Dataset, folder: Path) -> None:
    """Names of the signals, for a later training of W_ctx alone."""
    names = [signal.name for signal in dataset.meta.signals]
    (folder / SIGNALS_FILE).write_text(json.dumps(names), encoding="utf-8")


def _select(
    dataset: Dataset, until: int, config: Config, folder: Path, quiet: bool, key: str
) -> None:
    """Trains on all but the last 28 days; those choose λ_serve and order never-bought items."""
    cut, trial, threads = window_before(dataset, until), folder / _TRIAL, torch.get_num_threads()
    trained = folder / "trained"  # a stage of its own: choosing λ_serve may be interrupted
    if not is_made(trained, key):
        begin(folder, key)
        train(dataset, cut, config, folder, quiet)
    if not is_first_process():
        return
    mark_made(trained, key)
    model = load_model(dataset, config, folder)
    export(model, dataset, config, cut, trial, 0.0, threads)
    chosen, table = choose_lambda(Bundle.open(trial), dataset, until, threads=threads)
    discovery = fit_discovery(Bundle.open(trial), dataset, until, chosen, threads)
    serving = {
        "lambda_serve": chosen,
        "discovery": discovery.tolist(),
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


class Trial(NamedTuple):
    """The bundle that a run's λ_serve was chosen with, and the key of the run."""

    folder: Path
    key: str


def trial_of(dataset: Dataset, run: Path, until: int) -> Trial:
    """Of a finished run on the days before `until`: its model saw nothing of the last 28.

    Raises:
        ConfigError: the run is not complete, or of another dataset or `until`.
    """
    made = _finished(run)
    if made["key"] != stage_key(run_fingerprint(dataset, until, read_config(run))):
        raise ConfigError(
            f"{run}: expected a run of this dataset until {until} by this version, got another"
        )
    return Trial(run / "selection" / _TRIAL, made["key"])


def serving_lambda(run: Path) -> float:
    """The λ_serve that a run chose. Raises ConfigError where there is none."""
    return float(json.loads(_read(run / SERVING_FILE))["lambda_serve"])


def serving_discovery(run: Path) -> NDArray[np.float32]:
    """The weights of `fit_discovery` that a run chose. Raises ConfigError where there are none."""
    return np.array(json.loads(_read(run / SERVING_FILE))["discovery"], np.float32)


def export_run(
    dataset: Dataset,
    run: Path,
    cut: int,
    folder: Path,
    lambda_serve: float | None = None,
    ranker: Path | None = None,
) -> bool:
    """Exports a run to a bundle with the users' histories up to `cut`.

    Args:
        lambda_serve: None takes the run's own choice.
        ranker: folder of `engine.ranking.shop.run.rank_run`; None leaves the bundle without.
    Returns:
        Whether anything was done: False where the folder already holds this very bundle.
    Raises:
        ConfigError: the run or the ranker is not complete.
    """
    if lambda_serve is None:
        lambda_serve = serving_lambda(run)
    made = _finished(run)
    ranked = _finished(ranker)["key"] if ranker is not None else ""
    key = stage_key(dataset.meta.fingerprint, made["key"], cut, lambda_serve, ranked)
    stage = folder.with_name(f"{folder.name}.stage")  # a bundle holds nothing but its own files
    if is_made(stage, key) and folder.exists():
        return False
    begin(stage, key)
    config = read_config(run)
    model = load_model(dataset, config, run)
    graphs = None if ranker is None else ranker / RANKER_FOLDER
    export(
        model, dataset, config, cut, folder, lambda_serve, torch.get_num_threads(), graphs,
        serving_discovery(run),
    )  # fmt: skip
    mark_made(stage, key)
    return True


def read_config(run: Path) -> Config:
    """The configuration of a run. Raises ConfigError where there is none."""
    return Config.model_validate_json(_read(run / CONFIG_FILE))


def load_model(dataset: Dataset, config: Config, run: Path) -> Stars:
    """The model of a finished run.

    Raises:
        ConfigError: the weights are missing or do not fit the dataset.
    """
    model = build_model(config.model, dataset, config.train.seed)
    load_weights(model, run / WEIGHTS_FILE)
    return model.eval()


def is_made(folder: Path, key: str) -> bool:
    """Whether the stage in `folder` was completed with this key."""
    return _stage(folder) == {"key": key, "complete": True}


def begin(folder: Path, key: str) -> None:
    """Notes that the stage is being made; a checkpoint of another key is dropped."""
    if not is_first_process():
        return
    folder.mkdir(parents=True, exist_ok=True)
    if _stage(folder).get("key") != key:
        delete_checkpoint(folder)
    (folder / STAGE_FILE).write_text(json.dumps({"key": key, "complete": False}))


def mark_made(folder: Path, key: str) -> None:
    """Notes that the stage in `folder` is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STAGE_FILE).write_text(json.dumps({"key": key, "complete": True}))


def _finished(folder: Path) -> dict[str, Any]:
    """The stage in `folder`. Raises ConfigError where it was not completed."""
    made = _stage(folder)
    if not made.get("complete"):
        raise ConfigError(f"{folder}: expected a finished run, got one that was interrupted")
    return made


def _stage(folder: Path) -> dict[str, Any]:
    try:
        stage: dict[str, Any] = json.loads((folder / STAGE_FILE).read_text())
    except FileNotFoundError:
        return {}
    return stage


def stage_key(*parts: object) -> str:
    """sha256 of the parts, of all sources that make anything, and of the libraries that compute."""
    sources = source_digest("kernels", "engine")
    libraries = (torch.__version__, version("onnxruntime"), version("faiss-cpu"))
    return hashlib.sha256("\n".join(map(str, (*parts, sources, *libraries))).encode()).hexdigest()


def source_digest(*paths: str) -> str:
    """sha256 of the project's source files: of folders, and of files by name or pattern."""
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(_ROOT.glob(path if path.endswith(".py") else f"{path}/**/*.py")):
            name = file.relative_to(_ROOT).as_posix()
            if name not in _ONLY_TALK:
                digest.update(name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: expected a file of a finished run: {error}") from error
