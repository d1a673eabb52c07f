"""`stars compile`, run once on a tiny model with random weights and once on the trained bundle."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner

from engine import cli
from engine.bundle import Bundle
from engine.compile import artifacts, report
from engine.compile.artifacts import buckets_of, make_artifacts
from engine.compile.inspect import NetworkReport
from engine.compile.onnx import check
from engine.compile.parity import Parity
from engine.compile.rivals import FAMILIES
from engine.compile.subject import Subject, random_subject, trained_subject
from engine.compile.tensorrt import DEFAULT_BUCKETS, Plan
from engine.config import Config
from engine.data.dataset import Dataset
from engine.errors import BackendUnavailable, BundleError, CompileError, ConfigError
from engine.evaluation.protocol import last_cuts
from engine.model.stars import Stars
from engine.runtime.sidecar import Bucket, Sidecar, sha256, sidecar_path
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request
from engine.training.loop import CONFIG_FILE, save_weights
from tests.tiny import tiny_config, tiny_shop

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: nothing is built")
TOML = """
[model]
layers = 1
d_model = 32
heads = 2
d_ff = 64
d_serve = 16
window = 40
hop = 10
text_dim = 16
attribute_dim = 8
"""
PRECISIONS = {"fp32", "fp16", "bf16", "int8"}


def stars(*arguments: object) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Folder, compile.json and output of the command with every target that CI can build."""
    folder = tmp_path_factory.mktemp("compile")
    (folder / "tiny.toml").write_text(TOML)
    done = stars(
        "compile", "--preset", "small", "--config", folder / "tiny.toml", "--out", folder / "out",
        "--targets", "onnx,cpu,tensorrt-rtx,bridge", "--sm", "80,120", "--kernel-sm", 90,
        "--rounds", 2, "--threads", 1, "--serve",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder / "out", json.loads((folder / "out" / "compile.json").read_text()), done.output


def test_artifacts(made: tuple[Path, dict[str, Any], str]) -> None:
    folder, found, _ = made
    rows = found["artifacts"]
    for row in rows:
        assert set(row) == {"file", "target", "sm", "precision", "bytes", "seconds", "sha256"}
        content = (folder / row["file"]).read_bytes()
        assert row["bytes"] == len(content) > 0
        assert row["sha256"] == sha256(content)
        assert row["seconds"] > 0
    of = {target: [r for r in rows if r["target"] == target] for target in artifacts.TARGETS}
    assert of["tensorrt"] == of["bridge"] == []
    engines = {(row["sm"], row["precision"]) for row in of["tensorrt-rtx"]}
    assert engines == {(sm, precision) for sm in (80, 120) for precision in PRECISIONS - {"fp32"}}
    graphs = [row["file"] for row in of["onnx"] + of["cpu"]]
    assert len(set(graphs)) == len(graphs) == 9
    for file in graphs:
        check(onnx.load(folder / file))
    kinds = {re.split("_", row["file"])[0] for row in of["cpu"]}
    assert kinds == {"encode", "append"}
    assert found["build_seconds"] > max(row["seconds"] for row in rows)


def test_engines_are_those_of_the_graphs(made: tuple[Path, dict[str, Any], str]) -> None:
    folder = made[0]
    for precision, graph in (("fp16", "fp16"), ("bf16", "bf16"), ("int8", "int8_fp16")):
        path = folder / f"encode_{precision}.rtx.json"
        sidecar = Sidecar.model_validate_json(path.read_bytes())
        assert sidecar.precision == precision
        assert sidecar.sm == (80, 120)
        assert sidecar.graph_sha256 == sha256((folder / f"encode_{graph}.onnx").read_bytes())


def test_parity_times_and_kernels(made: tuple[Path, dict[str, Any], str]) -> None:
    _, found, _ = made
    keys = {"runtime", "precision", "weights", "cosine_min", "top10_overlap", "ndcg_delta"}
    for row in found["parity"]:
        assert set(row) == keys
        assert row["weights"] == "random"
        assert row["cosine_min"] > 0.99
        assert row["top10_overlap"] is row["ndcg_delta"] is None
    pairs = {(row["runtime"], row["precision"]) for row in found["parity"]}
    assert pairs >= {("openvino", p) for p in PRECISIONS} | {("onnxruntime", "int8")}
    assert set(found["encoder_ms"]) == set(FAMILIES)
    for row in found["encoder_ms"].values():
        assert set(row) == {"p50", "p95", "precision"}
    assert set(found["append_ms"]) == set(found["append_alone_ms"]) == {"p50", "full_p50"}
    timed = [row["family"] for row in found["contenders"]]
    assert set(timed) == {*FAMILIES, "append", "cpu_int8", "append_int8"}
    assert timed.count("openvino_plain") > 3
    assert {row["kernel"] for row in found["bridge"]} == {
        "token_assembly", "pooled_attention", "score_topk_scan", "score_topk_merge",
    }  # fmt: skip
    for row in found["bridge"]:
        assert set(row) >= {"kernel", "sm", "ptx_version", "assembled", "rules"}
        assert row["assembled"]
        assert row["sm"] == 90
        assert row["rules"]
    assert found["command"].split()[0] == "stars"
    assert found["versions"]["torch"] == torch.__version__
    assert set(found) >= {"commit", "machine", "threads", "load_before_timing", "contenders"}


def test_what_is_printed(made: tuple[Path, dict[str, Any], str]) -> None:
    folder, _, output = made
    for text in ("encode_int8.rtx", "80 120", "openvino", "onnxruntime plain", "sm_90"):
        assert text in output
    assert output.strip().endswith(str(folder / "compile.json").rsplit("/", maxsplit=1)[-1])


def test_the_bundle_serves(made: tuple[Path, dict[str, Any], str]) -> None:
    folder, found, _ = made
    bundle = Bundle.open(folder / "bundle")
    for row in found["artifacts"]:
        if row["target"] == "tensorrt-rtx":
            assert bundle.manifest.files[f"engines/{row['file']}"].sha256 == row["sha256"]
            assert f"engines/{row['file']}.json" in bundle.manifest.files
    none = np.zeros(0, np.int64)
    request = Request("user-000063", none, None, None, None, 10, "next", "allow", None, None, False)
    (reply,) = Recommender(bundle).recommend([request])
    assert isinstance(reply, Reply)
    assert (reply.item_ids > 0).all()


@pytest.fixture(scope="module")
def run(trained: Stars, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that the shared bundle was exported from."""
    folder = tmp_path_factory.mktemp("run")
    (folder / CONFIG_FILE).write_text(tiny_config.model_dump_json())
    save_weights(trained, folder)
    return folder


def test_a_trained_bundle(run: Path, dataset: Dataset, bundle: Path, tmp_path: Path) -> None:
    done = stars(
        "compile", "--bundle", bundle, "--data", dataset.folder, "--run", run, "--out", tmp_path,
        "--targets", "cpu,tensorrt-rtx", "--sm", 89, "--rounds", 0, "--threads", 1,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "compile.json").read_text())
    assert found["weights"] == "trained"
    assert {(r["runtime"], r["precision"]) for r in found["parity"]} >= {
        ("openvino", "int8"), ("onnxruntime", "int8"),
    }  # fmt: skip
    for row in found["parity"]:
        assert row["weights"] == "trained"
        assert row["top10_overlap"] > 0.9
        assert abs(row["ndcg_delta"]) < 0.1
    assert found["encoder_ms"] is found["append_ms"] is None
    assert found["bridge"] == []
    before, after = Bundle.open(bundle), Bundle.open(tmp_path / "bundle")
    assert after.manifest.lambda_serve == before.manifest.lambda_serve
    added = after.manifest.files.keys() - before.manifest.files.keys()
    assert {"engines/encode_int8.rtx", "engines/encode_int8.rtx.json"} <= added
    assert {"engines/rank_fp32.rtx", "engines/rank_fp32.rtx.json"} <= added
    plan = tmp_path / "bundle" / "engines" / "rank_fp32.rtx"
    engine = Sidecar.model_validate_json(sidecar_path(plan).read_bytes())
    assert [bucket.batch for bucket in engine.buckets] == [1, 8, 32]
    assert {bucket.length for bucket in engine.buckets} == {40}
    assert before.ranker is not None
    assert engine.graph_sha256 == sha256((before.ranker / "rank.onnx").read_bytes())
    assert before.manifest.files.items() <= after.manifest.files.items()
    # The CPU's graph is the one that the bundle serves.
    served = before.manifest.files["encode.int8.onnx"].sha256
    assert sha256((tmp_path / "encode_int8.onnx").read_bytes()) == served


def test_another_run_is_refused(run: Path, dataset: Dataset, bundle: Path, tmp_path: Path) -> None:
    model = trained_subject(bundle, dataset, run).model
    with torch.no_grad():
        model.items.project.weight += 0.01
    (tmp_path / CONFIG_FILE).write_text((run / CONFIG_FILE).read_text())
    save_weights(model, tmp_path)
    with pytest.raises(BundleError, match=r"rows: expected those of .* over corner, got others"):
        trained_subject(bundle, dataset, tmp_path)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--targets", "onnx,gpu"), "--targets: expected onnx, .*bridge, got 'gpu'"),
        (("--sm", "80,x"), "--sm: expected numbers as 80 or 120, got 'x'"),
        (("--kernel-sm", ""), "--kernel-sm: expected numbers as 80 or 120, got ''"),
        (("--run", "somewhere"), "--run: expected --bundle beside it"),
    ],
)
def test_a_wrong_option(options: tuple[str, ...], text: str, tmp_path: Path) -> None:
    done = stars("compile", "--out", tmp_path, *options)
    assert done.exit_code == 2
    assert re.search(text, re.sub(r"[\s│]+", " ", done.output)), done.output
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_alone(bundle: Path, tmp_path: Path) -> None:
    done = stars("compile", "--bundle", bundle, "--out", tmp_path)
    assert isinstance(done.exception, ConfigError)
    assert "expected --data and --run that it was exported from" in str(done.exception)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return random_subject(tiny_shop(), tiny_config(layers=1))


def test_tensorrt_where_it_is_not(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(BackendUnavailable, match=r"install it with .*stars-engine\[gpu\]"):
        make_artifacts(subject, ["onnx", "tensorrt"], [80], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", SimpleNamespace(__name__="trt"))
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match=r"expected an NVIDIA GPU, .*got none"):
            make_artifacts(subject, ["tensorrt"], [80], tmp_path / "out")


def test_what_tensorrt_is_asked_for(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builders are stood in for: plain plans, the fused one, and the server's model."""
    asked: list[tuple[Any, ...]] = []

    def plan(precision: str, graph: bytes, sm: int, k_max: int | None) -> Plan:
        content = f"{precision} {k_max}".encode()
        sidecar = Sidecar(
            target="tensorrt", version="11.1", version_compatible=False, sm=(sm,),
            driver_floor=580, ptx_version=None, precision=precision, buckets=(Bucket(1, 20),),
            graph_sha256=sha256(graph), plan_sha256=sha256(content), k_max=k_max,
        )  # fmt: skip
        return Plan(content, sidecar, NetworkReport((), {}, {}), b"", 1.0)

    def plain(
        trt: Any, target: str, graph: bytes, precision: str, buckets: Any, **rest: Any
    ) -> Plan:
        asked.append((target, precision, buckets, rest))
        return plan(precision, graph, rest["sms"][0], None)

    def fused(
        trt: Any,
        trtp: Any,
        graph: bytes,
        tables: Any,
        k: int,
        precision: str,
        buckets: Any,
        sm: int,
    ) -> Plan:
        asked.append((trtp, tables.rows.shape, tables.bias.any(), k))
        return plan(precision, graph, sm, k)

    trt, trtp = SimpleNamespace(__name__="tensorrt"), SimpleNamespace()
    monkeypatch.setattr(artifacts, "load_module", lambda target: trt)
    monkeypatch.setattr(artifacts, "this_card", lambda: 90)
    monkeypatch.setattr(artifacts, "build_plan", plain)
    monkeypatch.setattr(artifacts, "build_fused_plan", fused)
    monkeypatch.setitem(__import__("sys").modules, "tensorrt.plugin", trtp)
    made = make_artifacts(subject, ["tensorrt"], [80], tmp_path)
    buckets = buckets_of(20)
    assert [a[:3] for a in asked if a[0] == "tensorrt"] == [
        ("tensorrt", precision, buckets) for precision in ("fp16", "bf16", "int8")
    ]
    assert all(a[3] == {"sms": (90,)} for a in asked if a[0] == "tensorrt")
    assert (trtp, (60, 16), False, 500) in asked
    assert [(row.file, row.sm) for row in made.rows] == [
        ("encode_fp16.plan", 90), ("encode_fp16_fused.plan", 90),
        ("encode_bf16.plan", 90), ("encode_int8.plan", 90),
    ]  # fmt: skip
    assert set(made.plans) == {("tensorrt", p) for p in ("fp16", "bf16", "int8")}
    assert (tmp_path / "model_repository/stars_encoder/1/model.plan").read_bytes() == b"fp16 None"


def test_shapes_of_engines() -> None:
    assert buckets_of(200) == DEFAULT_BUCKETS
    assert buckets_of(1) == (Bucket(1, 1), Bucket(8, 1), Bucket(32, 1))
    assert [bucket.length for bucket in buckets_of(21)[::3]] == [6, 11, 21]


@pytest.mark.parametrize("what", ["parity", "bridge"])
def test_what_does_not_hold_fails_after_it_is_written(
    what: str, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Parity("openvino", "int8", "random", 0.98, None, None, None)
    refused = {"kernel": "scan", "assembled": False, "refused": "scan: rule: shared memory"}
    monkeypatch.setattr(report, "_parity", lambda *_: [broken] if what == "parity" else [])
    monkeypatch.setattr(report, "make_artifacts", lambda *_: artifacts.Artifacts())
    done = SimpleNamespace(result=lambda: [refused] if what == "bridge" else [])
    monkeypatch.setattr(report, "_bridge", lambda *_: _Entered(done))
    text = {"parity": r"openvino int8 \(random\): cosine_min", "bridge": "scan: rule: shared"}[what]
    with pytest.raises(CompileError, match=f"{what}: {text}"):
        report.compile_model(subject, tmp_path, targets=(), sms=(), kernel_sms=(), serve=True)
    assert (tmp_path / "compile.json").is_file()
    assert not (tmp_path / "bundle").exists()


class _Entered:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __enter__(self) -> Any:
        return self.value

    def __exit__(self, *_: object) -> None: ...


def test_a_bidirectional_model_has_no_append_graph(tmp_path: Path) -> None:
    subject = random_subject(tiny_shop(), tiny_config(layers=1, pooling="cls"))
    made = make_artifacts(subject, ["cpu"], [], tmp_path)
    assert [row.file for row in made.rows] == ["encode_int8.onnx"]


def test_the_task_of_a_random_subject_is_all_users(subject: Subject) -> None:
    assert subject.cut == last_cuts(subject.dataset).end
    assert not subject.bias.any()
    assert subject.weights == "random"
