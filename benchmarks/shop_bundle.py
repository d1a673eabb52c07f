"""`small` over Complete Journey with random weights: `python -m benchmarks.shop_bundle`.

Real catalogue, real households, real histories, and nothing trained: what a request costs hangs on
shapes, not on what the weights have learned. Texts are embedded word by word, by hashing.
"""

import json
from pathlib import Path

import torch

from engine.config import load_config
from engine.data.dataset import Dataset
from engine.data.prepare import prepare
from engine.demo import complete_journey_shop
from engine.evaluation.protocol import last_cuts
from engine.model.build import build_model
from engine.pipeline import (
    SERVING_FILE,
    begin,
    export_run,
    is_made,
    mark_made,
    stage_key,
)
from engine.serving.discovery import FEATURES
from engine.training.loop import CONFIG_FILE, save_weights

from .hashed_words import HashedWords

ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"
FOLDER, TRAINED = ARTIFACTS / "gate", ARTIFACTS / "demo" / "bundle"
_LAMBDA_SERVE, _NOISE = 0.05, 0.05


def trained_or_random(trained: Path = TRAINED) -> tuple[Path, str]:
    """The demo's bundle where it was made, else the random one; and which of them it is."""
    return (trained, "trained") if trained.is_dir() else (random_bundle(), "random")


def random_bundle(folder: Path = FOLDER) -> Path:
    """The bundle below `folder`; made anew where the code that makes it has changed."""
    config = load_config("small")
    embedder = HashedWords(config.model.text_dim)
    dataset = prepare(complete_journey_shop(folder), folder / "dataset", embedder=embedder)
    cut, run, bundle = last_cuts(dataset).test, folder / "run", folder / "bundle"
    key = stage_key("random weights", dataset.meta.fingerprint, config, _LAMBDA_SERVE, _NOISE)
    if not is_made(run, key):
        begin(run, key)
        _write_run(dataset, run)
        mark_made(run, key)
    export_run(dataset, run, cut, bundle)
    return bundle


def _write_run(dataset: Dataset, folder: Path) -> None:
    """A run as training leaves it, but for the training."""
    config = load_config("small")
    model = build_model(config.model, dataset, config.train.seed)
    make = torch.Generator().manual_seed(config.train.seed)
    with torch.no_grad():
        for weight in model.parameters():  # some are 0 before training, and would skip work
            weight += _NOISE * torch.randn(weight.shape, generator=make)
    save_weights(model, folder)
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2))
    kinds = len(dataset.meta.promotions)
    weights = [1.0, *[_NOISE] * (len(FEATURES) - 1 + kinds)]
    serving = {"lambda_serve": _LAMBDA_SERVE, "discovery": [weights, weights]}
    (folder / SERVING_FILE).write_text(json.dumps(serving))


if __name__ == "__main__":
    torch.set_num_threads(2)
    print(random_bundle())
