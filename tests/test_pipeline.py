"""The stages reuse what is unchanged, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest

from engine import pipeline
from engine.bundle import Bundle
from engine.config import Config
from engine.data.dataset import Dataset
from engine.errors import ConfigError
from engine.evaluation.evaluate import LAMBDAS, evaluate
from engine.evaluation.protocol import Cuts


@pytest.fixture(scope="module")
def short(tiny_config: Config) -> Config:
    train = tiny_config.train.model_copy(update={"epochs": 1.0, "refit_epochs": 0.5})
    return tiny_config.model_copy(update={"train": train})


@pytest.fixture(scope="module")
def run(
    dataset: Dataset, cuts: Cuts, short: Config, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("pipeline") / "run"
    assert pipeline.train_run(dataset, cuts.test, short, folder, quiet=True)
    return folder


def test_a_finished_run_is_not_made_again(
    dataset: Dataset, cuts: Cuts, short: Config, run: Path
) -> None:
    assert not pipeline.train_run(dataset, cuts.test, short, run, quiet=True)


def test_another_configuration_is(
    dataset: Dataset, cuts: Cuts, short: Config, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "run")
    train = short.train.model_copy(update={"seed": 7, "refit_epochs": 0.0})
    other = short.model_copy(update={"train": train})
    assert pipeline.train_run(dataset, cuts.test, other, tmp_path / "run", quiet=True)
    chosen, final = tmp_path / "run" / "selection", tmp_path / "run"
    assert (chosen / "model.safetensors").read_bytes() == (final / "model.safetensors").read_bytes()


def test_the_refit_moves_on_from_the_selection(run: Path) -> None:
    weights = [(folder / "model.safetensors").read_bytes() for folder in (run, run / "selection")]
    assert weights[0] != weights[1]
    assert Config.model_validate_json((run / "config.json").read_text()).train.epochs == 1.0


def test_an_interrupted_refit_keeps_the_selection(
    dataset: Dataset,
    cuts: Cuts,
    short: Config,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / pipeline.STAGE_FILE).unlink()
    monkeypatch.setattr(pipeline, "_select", lambda *_: pytest.fail("trained again"))
    assert pipeline.train_run(dataset, cuts.test, short, folder, quiet=True)
    assert (folder / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


def test_lambda_costs_at_most_one_percent(run: Path) -> None:
    serving = json.loads((run / pipeline.SERVING_FILE).read_text())
    table = {row["lambda"]: row["ndcg@10"] for row in serving["validation"]}
    chosen = serving["lambda_serve"]
    assert table[chosen] >= 0.99 * table[0.0]
    following = LAMBDAS[LAMBDAS.index(chosen) + 1 :][:1]
    assert all(table[value] < 0.99 * table[0.0] for value in following)


def test_export_is_reused_until_its_inputs_change(
    dataset: Dataset, cuts: Cuts, run: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    assert pipeline.export_run(dataset, run, cuts.test, bundle, 0.1)
    assert not pipeline.export_run(dataset, run, cuts.test, bundle, 0.1)
    assert Bundle.open(bundle).manifest.lambda_serve == 0.1
    assert pipeline.export_run(dataset, run, cuts.validation, bundle, 0.1)
    assert Bundle.open(bundle).manifest.cut == cuts.validation


def test_an_unfinished_run_is_refused(dataset: Dataset, cuts: Cuts, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"serving\.json: expected a file of a finished run"):
        pipeline.export_run(dataset, tmp_path, cuts.test, tmp_path / "bundle")


def test_evaluation_beats_popularity_where_users_repeat(
    dataset: Dataset, cuts: Cuts, bundle: Path
) -> None:
    result = evaluate(Bundle.open(bundle), dataset, cuts.end)
    assert result.metrics["next"]["recall@10"] > result.metrics["popularity"]["recall@10"]
    assert set(result.comparison()) == {
        "next_minus_personal_recency",
        "round_robin_minus_personal_recency",
    }


def test_source_digest_follows_the_sources() -> None:
    assert pipeline.source_digest("kernels") != pipeline.source_digest("engine/model")
    assert pipeline.source_digest("kernels") == pipeline.source_digest("kernels")
