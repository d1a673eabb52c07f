"""The command line, from a prepared dataset to an answer of a running server."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.hashed_words import HashedWords
from engine import cli
from engine.config import Config
from engine.data.dataset import Dataset
from engine.data.prepare import prepare
from engine.serving.server import MODEL_REPOSITORY, TritonServer
from tests.shop import write_shop

runner = CliRunner()


def stars(*arguments: object) -> str:
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def toml(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "tiny.toml"
    model = tiny_config.model.model_dump()
    lines = ["[model]", *(f"{name} = {json.dumps(value)}" for name, value in model.items())]
    lines += ["[train]", "epochs = 1.0", "refit_epochs = 0.5", "batch_size = 16"]
    file.write_text("\n".join(lines))
    return file


def test_train_export_evaluate(dataset: Dataset, toml: Path, tmp_path: Path) -> None:
    assert dataset.folder is not None
    data, run, bundle = dataset.folder, tmp_path / "run", tmp_path / "bundle"
    assert "trained" in stars("train", "--data", data, "--out", run, "--config", toml)
    assert "unchanged" in stars("train", "--data", data, "--out", run, "--config", toml)
    assert "exported" in stars("export", "--data", data, "--run", run, "--out", bundle)
    report = tmp_path / "report.json"
    printed = stars("evaluate", "--data", data, "--bundle", bundle, "--json", report)
    assert "personal recency" in printed
    metrics = json.loads(report.read_text())["metrics"]
    assert set(metrics["round_robin"]) == {
        "hit@5",
        "hit@10",
        "recall@10",
        "ndcg@10",
        "coverage@10",
    }


def test_a_shop_with_an_order_and_no_time(toml: Path, tmp_path: Path) -> None:
    source = write_shop(tmp_path / "shop", with_time=False)
    prepare(source, tmp_path / "data", embedder=HashedWords())
    data, run, bundle = tmp_path / "data", tmp_path / "run", tmp_path / "bundle"
    stars("train", "--data", data, "--out", run, "--config", toml)
    stars("export", "--data", data, "--run", run, "--out", bundle)
    assert "round robin" in stars("evaluate", "--data", data, "--bundle", bundle)


def test_nobody_to_evaluate_on(dataset: Dataset, bundle: Path, tmp_path: Path) -> None:
    run = tmp_path / "end"
    assert dataset.folder is not None
    shutil.copytree(bundle, run)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["cut"] = int(dataset.event_time.max()) + 1
    (run / "manifest.json").write_text(json.dumps(manifest))
    result = runner.invoke(
        cli.app, ["evaluate", "--data", str(dataset.folder), "--bundle", str(run)]
    )
    assert "expected a user with a session in" in str(result.exception)


def test_describe(dataset: Dataset, tmp_path: Path) -> None:
    assert dataset.folder is not None
    stars("data", "describe", dataset.folder, "--json", tmp_path / "d.json")
    assert json.loads((tmp_path / "d.json").read_text())["counts"]["users"] == 60


def test_recommend_asks_a_server(bundle: Path) -> None:
    with TritonServer([MODEL_REPOSITORY], bundle) as server:
        for protocol, url in (("grpc", server.grpc_url), ("http", server.http_url)):
            out = stars(
                *("recommend", "--user", "user-003", "--k", 3),
                *("--url", url, "--protocol", protocol, "--bundle", bundle, "--explain"),
            )
            assert "repeat" in out
            assert '"vectors": "stored"' in out


def test_an_expected_error_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["stars", "data", "describe", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("stars: ")
    assert "expected a prepared dataset" in error
    assert error.count("\n") == 1


def test_a_wrong_day_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    result = runner.invoke(
        cli.app,
        ["train", "--data", str(dataset.folder), "--out", str(tmp_path), "--until", "soon"],
    )
    assert result.exit_code == 2
    assert "expected YYYY-MM-DD or end" in result.output


@pytest.mark.parametrize("name", ["retrieval", "refresh"])
def test_benchmarks_by_name(name: str) -> None:
    """What follows the name is the benchmark's own."""
    script = "from engine.cli import main; main()"
    command = [sys.executable, "-c", script, "bench", name, "--help"]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--json" in made.stdout


def test_a_benchmark_that_there_is_not() -> None:
    refused = runner.invoke(cli.app, ["bench", "nothing"])
    assert refused.exit_code == 2
    assert "expected one of retrieval, refresh, report, got 'nothing'" in refused.output
