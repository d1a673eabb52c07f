"""The generated shop's model of another seed: its logits leave room for what rounding may swap.

Parity counts swaps among the ten best of sixty users; of near ties one small model has more than
another, and bf16 may swap each.
"""

from pathlib import Path

import pytest

from engine.compile.export import export
from engine.config import Config
from engine.data.dataset import Dataset
from engine.evaluation.protocol import Cuts
from engine.model.stars import Stars
from engine.training.loop import train


@pytest.fixture(scope="session")
def tiny_config(tiny_config: Config) -> Config:
    changed = tiny_config.train.model_copy(update={"seed": 1})
    return tiny_config.model_copy(update={"train": changed})


@pytest.fixture(scope="session")
def trained(
    dataset: Dataset, cuts: Cuts, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Stars:
    return train(dataset, cuts.test, tiny_config, tmp_path_factory.mktemp("run"), quiet=True)


@pytest.fixture(scope="session")
def bundle(
    dataset: Dataset,
    cuts: Cuts,
    tiny_config: Config,
    trained: Stars,
    ranker: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    export(trained, dataset, tiny_config, cuts.test, folder, lambda_serve=0.05, ranker=ranker)
    return folder
