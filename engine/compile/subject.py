"""What is compiled: a model, and the sequences that it is calibrated on and compared by."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from engine.bundle import Bundle
from engine.config import Config
from engine.data.dataset import Dataset
from engine.data.generated import generated_shop
from engine.errors import BundleError, ConfigError
from engine.evaluation.protocol import Task, last_cuts, next_session, window_after
from engine.model.build import build_model
from engine.model.stars import Stars
from engine.pipeline import load_model, read_config
from engine.runtime.inputs import Batch
from engine.training.history import Past, past

from .export import calibration, item_tables, windows

_USERS_AT_ONCE, _MOST_USERS = 64, 2048
_SPREAD = 0.02  # as the model's own tables that do not start at 0


@dataclass(frozen=True)
class Subject:
    """A model with its shop.

    Attributes:
        cut: unix seconds; the sequences are the users' windows at this moment.
        rows, candidates: [N, d_model] and [N, d_serve] float32, the folded item tables.
        bundle: that serves the model; None for random weights.
    """

    model: Stars
    dataset: Dataset
    config: Config
    cut: int
    history: Past
    rows: NDArray[np.float32]
    candidates: NDArray[np.float32]
    bundle: Bundle | None

    @property
    def weights(self) -> Literal["trained", "random"]:
        """Where the weights come from."""
        return "random" if self.bundle is None else "trained"

    @property
    def bias(self) -> NDArray[np.float32]:
        """[N] b, the popularity prior as the bundle serves it; random weights have none."""
        weight = 0.0 if self.bundle is None else self.bundle.manifest.lambda_serve
        return -np.float32(weight) * self.history.log_p

    def calibration(self) -> list[Batch]:
        """Windows to quantise by, the same that the bundle's graphs were quantised by."""
        return list(calibration(self.history, self.config, self.rows))

    def batches(self, users: NDArray[np.int64]) -> list[Batch]:
        """The windows of `users`, in their order."""
        starts = range(0, len(users), _USERS_AT_ONCE)
        parts = (users[start : start + _USERS_AT_ONCE] for start in starts)
        return [windows(part, self.history, self.config, self.rows) for part in parts]

    def task(self) -> Task:
        """What up to 2,048 users bought next, ordered by the length of their histories."""
        task = next_session(self.dataset, self.cut, window_after(self.dataset, self.cut))
        order = np.argsort(np.diff(self.history.offsets)[task.users], kind="stable")
        chosen = order[:: max(1, -(-len(order) // _MOST_USERS))]
        targets = [task.targets[i] for i in chosen.tolist()]
        return Task(task.cut, task.users[chosen], task.times[chosen], targets)


def load_subject(
    config: Config, bundle: Path | None, data: Path | None, run: Path | None, folder: Path
) -> Subject:
    """What `stars compile` is asked to compile.

    Args:
        config: of a model with random weights; a trained one has its run's.
        bundle: that serves trained weights; None for random ones.
        data: prepared dataset; without one and without a bundle a shop is made up in `folder`/shop.
        run: that the bundle was exported from.
    Raises:
        ConfigError: a bundle without its dataset or run; and what reading them raises.
    """
    if bundle is not None:
        if data is None or run is None:
            raise ConfigError(
                "compile: a bundle: expected --data and --run that it was exported from, for the "
                "weights and for what users did next, got not both"
            )
        return trained_subject(bundle, Dataset.load(data), run)
    if data is not None:
        return random_subject(Dataset.load(data), config)
    events = config.model.window * 3 // 2
    shop = generated_shop(folder / "shop", events=events, text_dim=config.model.text_dim)
    return random_subject(shop, config)


def random_subject(dataset: Dataset, config: Config, seed: int = 0) -> Subject:
    """Random weights over a shop; tables that training starts at 0 are random too."""
    model = build_model(config.model, dataset, seed).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(std=_SPREAD)
    return make_subject(model, dataset, config, last_cuts(dataset).end, None)


def trained_subject(bundle: Path, dataset: Dataset, run: Path) -> Subject:
    """The model of a bundle, from the run that it was exported from.

    Raises:
        BundleError: the bundle cannot be opened, or is of another run or dataset.
        ConfigError: the run is not complete.
    """
    opened, config = Bundle.open(bundle), read_config(run)
    model = load_model(dataset, config, run)
    made = make_subject(model, dataset, config, opened.manifest.cut, opened)
    for name, ours in (("rows", made.rows), ("candidates", made.candidates)):
        theirs = opened.items[name]
        if theirs.shape != ours.shape or not np.allclose(theirs, ours, rtol=1e-3, atol=1e-4):
            raise BundleError(
                f"{bundle}: {name}: expected those of {run} over {dataset.meta.name}, got others: "
                "give the run and the dataset that the bundle was exported from"
            )
    return made


def make_subject(
    model: Stars, dataset: Dataset, config: Config, cut: int, bundle: Bundle | None
) -> Subject:
    """A model with its folded tables and its shop's past at `cut`; arguments as of `Subject`."""
    train = config.train
    history = past(dataset, cut, train.alpha, train.repeat_types)
    rows, candidates = item_tables(model)
    return Subject(model, dataset, config, cut, history, rows, candidates, bundle)
