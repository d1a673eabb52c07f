"""A ranker for the bundles of a finished run: candidates, training, graphs."""

from pathlib import Path

from engine.bundle import RANKER_FOLDER, Bundle
from engine.data.clock import HOURS, WEEKDAYS
from engine.data.dataset import Dataset
from engine.pipeline import begin, is_made, mark_made, serving_lambda, stage_key, trial_of
from engine.serving.options import Options
from engine.serving.recommender import Recommender

from .collect import collect, objectives_of
from .config import ShopRankerConfig
from .export import export_ranker
from .network import Shape
from .train import train


def rank_run(
    dataset: Dataset, run: Path, until: int, config: ShopRankerConfig, folder: Path, threads: int
) -> bool:
    """Trains a ranker on the 28 days before `until`, of which the run's first model saw nothing.

    Its candidates are what that model retrieves at the start of each session, with the run's
    λ_serve; the graphs lie in `folder`/ranking, for `export_run`.

    Args:
        dataset: the run's.
        run: folder of a finished run.
        until: the run's own: nothing after it is read.
        config: of the ranker.
        folder: of the stage.
        threads: of retrieval.
    Returns:
        Whether anything was done: False where the folder already holds this very ranker.
    Raises:
        ConfigError: the run is not complete, or of another dataset or `until`.
        StarsError: too few sessions to learn from.
    """
    trial = trial_of(dataset, run, until)
    key = stage_key(trial.key, config.model_dump_json())
    if is_made(folder, key):
        return False
    begin(folder, key)
    recommender = Recommender(Bundle.open(trial.folder), Options(threads))
    recommender.set_lambda(serving_lambda(run))
    make_ranker(recommender, dataset, until, config, folder / RANKER_FOLDER)
    mark_made(folder, key)
    return True


def make_ranker(
    recommender: Recommender,
    dataset: Dataset,
    until: int,
    config: ShopRankerConfig,
    folder: Path,
) -> None:
    """Trains a ranker of what a recommender retrieves, and writes its graphs.

    Args:
        recommender: of a bundle that saw nothing of the days from its cut to `until`.
        dataset: that the bundle was made of.
        until: unix seconds.
        config: of the ranker.
        folder: of the graphs.
    Raises:
        StarsError: too few sessions to learn from.
    """
    manifest = recommender.bundle.manifest
    collected = collect(
        recommender, dataset, manifest.cut, until, config.candidates, config.sessions
    )
    objectives, parents = objectives_of(manifest, dataset.meta.outcomes)
    candidates = recommender.catalogue.candidates
    categories = (len(values) + 1 for values in manifest.user_categorical.values())
    shape = Shape(
        dim=candidates.shape[1],
        codes=(*categories, HOURS, WEEKDAYS),
        profile=collected.profile.shape[1],
        subclasses=int(recommender.bundle.items["subclass"].max(initial=-1)) + 1,
    )
    trained = train(collected, candidates, shape, config, objectives, parents)
    export_ranker(trained, config, objectives, folder)
