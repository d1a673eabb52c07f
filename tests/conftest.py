"""What many tests share: the generated shop, prepared, trained and bundled once a session."""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton reads this when a kernel's module is imported: here kernels run in its interpreter.
    os.environ["TRITON_INTERPRET"] = "1"

from benchmarks.hashed_words import HashedWords
from engine.compile.export import export
from engine.config import Config
from engine.data.dataset import Dataset
from engine.data.prepare import prepare
from engine.evaluation.protocol import Cuts, last_cuts
from engine.model.stars import Stars
from engine.ranking.config import FusionConfig
from engine.ranking.shop.config import ShopRankerConfig
from engine.ranking.shop.run import make_ranker
from engine.ranking.wesing.config import ExpertsConfig, RankerConfig
from engine.serving.recommender import Recommender
from engine.training.loop import train
from tests.shop import write_shop

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The generated shop as a prepared dataset."""
    folder = tmp_path_factory.mktemp("shop")
    shop = write_shop(folder / "shop", outcomes=True, promotions=True)
    return prepare(shop, folder / "dataset", embedder=HashedWords())


@pytest.fixture(scope="session")
def cuts(dataset: Dataset) -> Cuts:
    """The generated shop's validation and test windows."""
    return last_cuts(dataset)


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """A model that trains in seconds."""
    return Config.model_validate(
        {
            "model": {
                "layers": 2,
                "d_model": 32,
                "heads": 2,
                "d_ff": 64,
                "d_serve": 16,
                "window": 40,
                "hop": 10,
                "text_dim": 16,
                "attribute_dim": 8,
                "repeat_hidden": 16,
            },
            "train": {
                "epochs": 6,
                "batch_size": 16,
                "lr": 5e-3,
                "shared_uniform": 64,
                "shared_positive": 64,
            },
        }
    )


@pytest.fixture(scope="session")
def trained(
    dataset: Dataset, cuts: Cuts, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory
) -> Stars:
    """A model trained on everything before the test window."""
    folder = tmp_path_factory.mktemp("run")
    return train(dataset, cuts.test, tiny_config, folder, quiet=True)


@pytest.fixture(scope="session")
def earlier(
    dataset: Dataset,
    cuts: Cuts,
    tiny_config: Config,
    trained: Stars,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A bundle of `trained` as of the start of the validation window, which it can be asked of."""
    folder = tmp_path_factory.mktemp("earlier") / "bundle"
    export(trained, dataset, tiny_config, cuts.validation, folder, lambda_serve=0.05)
    return folder


@pytest.fixture(scope="session")
def ranker_config() -> ShopRankerConfig:
    """A ranker that trains in a second."""
    experts = ExpertsConfig(shared=1, hidden=16, width=8)
    return ShopRankerConfig(
        candidates=40,
        embedding=4,
        ranker=RankerConfig(experts=experts, tower=8),
        epochs=1,
        fusion=FusionConfig(epochs=1),
    )


@pytest.fixture(scope="session")
def ranker(
    dataset: Dataset,
    cuts: Cuts,
    earlier: Path,
    ranker_config: ShopRankerConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Graphs of a ranker of the shop."""
    folder = tmp_path_factory.mktemp("ranker")
    recommender = Recommender.load(earlier)
    make_ranker(recommender, dataset, cuts.test, ranker_config, folder)
    return folder


@pytest.fixture(scope="session")
def bundle(
    dataset: Dataset,
    cuts: Cuts,
    tiny_config: Config,
    trained: Stars,
    ranker: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The bundle that serves `trained`, and ranks; read it, do not change it."""
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    export(trained, dataset, tiny_config, cuts.test, folder, lambda_serve=0.05, ranker=ranker)
    return folder
