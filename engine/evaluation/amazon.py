"""Amazon reviews by the published protocol: one training run, two ways to use the validation item.

`strict` never trains on it. `refit` goes on from there for `refit_epochs` with the validation item,
as a shop is refitted before it serves; it has no validation figures, since it saw those answers.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from engine.config import Config
from engine.data.amazon import Amazon, write_shop
from engine.data.dataset import Dataset
from engine.data.prepare import prepare
from engine.data.text import CachedEmbedder, Embedder
from engine.manifest import source_commit
from engine.model.stars import Stars
from engine.pipeline import begin, is_made, load_model, mark_made, stage_key
from engine.training.history import Past, past
from engine.training.loop import WEIGHTS_FILE, run_fingerprint, train

from .leave_one_out import accuracy, next_items, top_items
from .neighbours import WEIGHTS, Neighbours

Protocol = Literal["strict", "refit"]
Part = Literal["text", "tags"]
Means = dict[str, float]
PARTS: tuple[Part, ...] = ("text", "tags")
MINUTES_FILE = "minutes.json"


@dataclass(frozen=True)
class Result:
    """What one training run reached.

    Attributes:
        test, validation: measure -> mean over the users; validation is None for `refit`.
        model_alone: the same without the term of counts, by split.
        gamma: weight of that term, chosen on the validation item by the strict model.
        standard_error: "test" or "validation" -> measure -> standard error of that mean.
        minutes, cpu_minutes: of training, on the clock and on all cores together.
        counts: users, items, events, texts and tags.
    """

    dataset: str
    protocol: Protocol
    without: tuple[Part, ...]
    seed: int
    test: dict[str, float]
    validation: dict[str, float] | None
    model_alone: dict[str, dict[str, float]]
    gamma: float
    standard_error: dict[str, dict[str, float]]
    minutes: float
    cpu_minutes: float
    threads: int
    counts: dict[str, int]
    config: dict[str, Any]
    commit: str

    def as_json(self) -> dict[str, Any]:
        """The fields, as JSON holds them."""
        return asdict(self)


def run(
    source: Path,
    work: Path,
    protocol: Protocol,
    config: Config,
    embedder: Embedder,
    *,
    without: tuple[Part, ...] = (),
    seed: int | None = None,
    quiet: bool = True,
) -> Result:
    """Prepares, trains and evaluates.

    Args:
        source: folder of <Name>.txt and <Name>.items.jsonl.
        work: folder for what is made on the way; text embeddings there are used again.
        protocol: what is trained on.
        config: model and training.
        embedder: of the items' texts.
        without: parts of the items' content that the model does not get.
        seed: of weights and draws, instead of the configuration's.
        quiet: no progress bar.
    Raises:
        DataError: the files break their form.
    """
    if seed is not None:
        config = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
    commit = source_commit()  # of what runs: the tree may move on meanwhile
    folder, dataset, (validation, test) = prepared(source, work, config, embedder, without)
    strict = folder / f"run-strict-{config.train.seed}"
    strict_model, minutes = _trained(dataset, validation, config, strict, quiet)
    model = strict_model
    if protocol == "refit":
        refit = folder / f"run-refit-{config.train.seed}"
        model, more = _trained(dataset, test, _refit(config), refit, quiet, strict / WEIGHTS_FILE)
        minutes = minutes[0] + more[0], minutes[1] + more[1]

    near = Neighbours.of(_past(dataset, validation, config))
    gamma, table_of_gamma = _choose(dataset, validation, config, strict_model, near)
    found = {}
    if protocol == "strict":
        found["validation"] = table_of_gamma[gamma]
        found["validation, model alone"] = table_of_gamma[0.0]
    else:
        near = Neighbours.of(_past(dataset, test, config))
    measured = _measure(dataset, test, config, model, near, (gamma, 0.0))
    found["test"], found["test, model alone"] = measured
    return Result(
        dataset=dataset.meta.name,
        protocol=protocol,
        without=without,
        seed=config.train.seed,
        test=found["test"][0],
        validation=found["validation"][0] if protocol == "strict" else None,
        model_alone={
            name.split(",")[0]: means for name, (means, _) in found.items() if "alone" in name
        },
        gamma=gamma,
        standard_error={name: errors for name, (_, errors) in found.items() if "alone" not in name},
        minutes=round(minutes[0], 2),
        cpu_minutes=round(minutes[1], 2),
        threads=torch.get_num_threads(),
        counts=_counts(dataset),
        config=config.model_dump(mode="json"),
        commit=commit,
    )


def prepared(
    source: Path,
    work: Path,
    config: Config,
    embedder: Embedder,
    without: tuple[Part, ...] = (),
) -> tuple[Path, Dataset, tuple[int, int]]:
    """Folder of the runs, the prepared dataset, and the orders of the validation and test items.

    Arguments as of `run`; what is there already is used again.
    """
    data = Amazon.read(source)
    folder = work / "-".join((data.name, *(f"no_{part}" for part in without)))
    shop = write_shop(data, folder / "shop", text="text" not in without, tags="tags" not in without)
    texts = CachedEmbedder(embedder, work / "embeddings")
    dataset = prepare(
        shop,
        folder / "data",
        embedder=_OneVector(config.model.text_dim) if "text" in without else texts,
    )
    return folder, dataset, data.cuts


class _OneVector:
    """For texts that say nothing: one vector, as wide as the residual Δ is to be."""

    def __init__(self, width: int) -> None:
        self.name, self._width = f"one vector of {width}", width

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.repeat(np.eye(1, self._width, dtype=np.float32), len(texts), axis=0)


def table(result: Result) -> Table:
    """One row a split, one column a measure, each with its standard error."""
    without = f", without {' and '.join(result.without)}" if result.without else ""
    title = f"{result.dataset}, {result.protocol}{without}: {result.minutes} minutes of training"
    shown = Table("", *result.test, title=title)
    for name, means in (("validation", result.validation), ("test", result.test)):
        if means is not None:
            errors = result.standard_error[name]
            shown.add_row(name, *(f"{v:.4f} ± {errors[m]:.4f}" for m, v in means.items()))
            alone = result.model_alone[name].values()
            shown.add_row("  without counts", *(f"{value:.4f}" for value in alone))
    return shown


def _past(dataset: Dataset, cut: int, config: Config) -> Past:
    return past(dataset, cut, config.train.alpha, config.train.repeat_types)


def _measure(
    dataset: Dataset,
    cut: int,
    config: Config,
    model: Stars,
    near: Neighbours,
    weights: Sequence[float],
) -> list[tuple[Means, Means]]:
    """Means and standard errors at each γ, of what everyone did at `cut`."""
    asked = next_items(dataset, cut)
    lists = top_items(model, _past(dataset, cut, config), asked.users, near, weights)
    return [accuracy(rows, asked.target) for rows in lists]


def _choose(
    dataset: Dataset, cut: int, config: Config, model: Stars, near: Neighbours
) -> tuple[float, dict[float, tuple[Means, Means]]]:
    """The γ of the highest NDCG@10 at the validation cut, and the measures at each."""
    measured = _measure(dataset, cut, config, model, near, WEIGHTS)
    found = dict(zip(WEIGHTS, measured, strict=True))
    return max(found, key=lambda gamma: found[gamma][0]["ndcg@10"]), found


def _trained(
    dataset: Dataset,
    cut: int,
    config: Config,
    folder: Path,
    quiet: bool,
    start: Path | None = None,
) -> tuple[Stars, tuple[float, float]]:
    """The model of a training, and its minutes on the clock and on all cores together.

    A folder that holds this very training is read instead, with the minutes that it took.
    """
    key = stage_key(run_fingerprint(dataset, cut, config, start=start))
    if is_made(folder, key):
        minutes = json.loads((folder / MINUTES_FILE).read_text())
        return load_model(dataset, config, folder), (minutes["clock"], minutes["cpu"])
    begin(folder, key)
    clock, cpu = time.monotonic(), time.process_time()
    model = train(dataset, cut, config, folder, quiet, start=start)
    took = (time.monotonic() - clock) / 60, (time.process_time() - cpu) / 60
    (folder / MINUTES_FILE).write_text(json.dumps({"clock": took[0], "cpu": took[1]}))
    mark_made(folder, key)
    return model, took


def _refit(config: Config) -> Config:
    """The short second training."""
    train = config.train
    changes = {
        "epochs": train.refit_epochs,
        "lr": train.lr * train.refit_lr_scale,
        "seed": train.seed + 1,
    }
    return config.model_copy(update={"train": train.model_copy(update=changes)})


def _counts(dataset: Dataset) -> dict[str, int]:
    return {
        "users": len(dataset.user_ids),
        "items": len(dataset.item_ids),
        "events": len(dataset.event_item),
        "texts": len(dataset.text_rows),
        "tags": len(dataset.meta.tags),
    }
