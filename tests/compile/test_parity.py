"""Every runtime and precision of this machine, beside torch in fp32, on real sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engine.bundle import ENCODE_FILE, ENCODE_INT8_FILE, Bundle
from engine.compile.artifacts import buckets_of, this_card
from engine.compile.onnx import save, trace_encoder
from engine.compile.parity import (
    PLANS,
    PRECISIONS,
    SCORE_ERROR,
    Judge,
    Parity,
    check,
    lowest_cosine,
    open_encoder,
    parity,
    runnable,
)
from engine.compile.subject import Subject, make_subject, random_subject
from engine.compile.tensorrt import build_plan
from engine.compile.typed import typed
from engine.config import Config
from engine.data.dataset import Dataset
from engine.errors import CompileError
from engine.evaluation.protocol import Cuts
from engine.model.stars import Stars
from engine.runtime.onnx_cpu import OnnxEncoder
from engine.runtime.sidecar import write_plan
from engine.runtime.tensorrt import load_module
from tests.tiny import tiny_config, tiny_shop

ROWS = [
    pytest.param(runtime, precision, marks=[pytest.mark.gpu] if runtime in PLANS else [])
    for runtime, precisions in PRECISIONS.items()
    for precision in precisions
]


@pytest.fixture(scope="module")
def subject(
    trained: Stars, dataset: Dataset, tiny_config: Config, cuts: Cuts, bundle: Path
) -> Subject:
    return make_subject(trained, dataset, tiny_config, cuts.test, Bundle.open(bundle))


@pytest.fixture(scope="module")
def graphs(
    subject: Subject, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Those that the bundle serves, and the others of the same weights."""
    folder = tmp_path_factory.mktemp("graphs")
    traced = trace_encoder(subject.model)
    for precision in ("fp16", "bf16"):
        save(typed(traced, precision), folder / f"{precision}.onnx")
    return {
        "fp32": bundle / ENCODE_FILE,
        "int8": bundle / ENCODE_INT8_FILE,
        "fp16": folder / "fp16.onnx",
        "bf16": folder / "bf16.onnx",
    }


@pytest.fixture(scope="module")
def judge(subject: Subject) -> Judge:
    return Judge(subject)


@pytest.mark.parametrize(("runtime", "precision"), ROWS)
def test_parity(
    runtime: str,
    precision: str,
    judge: Judge,
    graphs: dict[str, Path],
    tmp_path: Path,
) -> None:
    if (runtime, precision) not in runnable():
        pytest.skip(f"{runtime} does not run here: `stars runtimes` says why")
    plans = {}
    if runtime in PLANS:
        plan = build_plan(
            load_module(runtime), runtime, graphs[precision].read_bytes(), precision,
            buckets_of(judge.subject.config.model.window), sms=(this_card(),),
            half="fp32" if precision == "int8" else "fp16",
        )  # fmt: skip
        plans[runtime, precision] = tmp_path / "plan"
        write_plan(tmp_path / "plan", plan.content, plan.sidecar)
    (row,) = parity(judge, graphs, plans, 1, [(runtime, precision)])
    assert row.weights == "trained"
    assert row[:2] == (runtime, precision)
    assert row.breaches() == []
    check([row])


@pytest.mark.parametrize("planted", ["scale", "zero weight"])
def test_an_error_in_the_graph_is_seen(
    planted: str, judge: Judge, graphs: dict[str, Path], tmp_path: Path
) -> None:
    graph = onnx.load(graphs["int8"])
    node = next(n for n in graph.graph.node if n.name == "layers.0.feed_in/MatMul/Back")
    scale = next(w for w in graph.graph.initializer if w.name == node.input[1])
    if planted == "scale":  # of one dequantisation alone: what comes back is three times too large
        wrong = numpy_helper.from_array(np.float32(3) * numpy_helper.to_array(scale), "wrong")
        graph.graph.initializer.append(wrong)
        node.input[1] = "wrong"
    else:
        product = next(n for n in graph.graph.node if n.name == "layers.1.value/MatMul")
        weight = next(n for n in graph.graph.node if n.output[0] == product.input[1])
        stored = next(w for w in graph.graph.initializer if w.name == weight.input[0])
        stored.raw_data = bytes(len(stored.raw_data))
    save(graph, tmp_path / "wrong.onnx")
    row = judge.compare("onnxruntime", "int8", OnnxEncoder(tmp_path / "wrong.onnx"))
    assert row.breaches()
    with pytest.raises(CompileError, match=r"parity: onnxruntime int8 \(trained\): \w+: expected"):
        check([row])


def test_random_weights_are_compared_by_cosine(tmp_path: Path) -> None:
    subject = random_subject(tiny_shop(), tiny_config())
    assert subject.bundle is None
    assert all(weight.any() for weight in subject.model.parameters())
    save(typed(trace_encoder(subject.model), "fp16"), tmp_path / "fp16.onnx")
    judge = Judge(subject)
    assert sum(len(batch["length"]) for batch in judge.batches) == len(tiny_shop().user_ids)
    row = judge.compare("onnxruntime", "fp16", OnnxEncoder(tmp_path / "fp16.onnx"))
    assert row.row() == {
        "runtime": "onnxruntime", "precision": "fp16", "weights": "random",
        "cosine_min": row.cosine_min, "top10_overlap": None, "ndcg_delta": None,
    }  # fmt: skip
    assert row.breaches() == []
    assert row._replace(cosine_min=0.9989).breaches()


@pytest.mark.parametrize(
    ("precision", "change", "text"),
    [
        ("fp32", {"cosine_min": 0.99999}, "cosine_min: expected at least 0.999999"),
        ("fp32", {"score_error": 3 * SCORE_ERROR}, "no swaps but inside the score error"),
        ("fp16", {"top10_overlap": 0.994}, "top10_overlap: expected at least 0.995, got 0.9940"),
        ("bf16", {"top10_overlap": 0.994}, "top10_overlap: expected at least 0.995"),
        ("int8", {"top10_overlap": 0.979}, "top10_overlap: expected at least 0.98,"),
        ("int8", {"ndcg_delta": -0.0101}, "ndcg_delta: expected at most 0.01, got -0.0101"),
        ("int8", {"cosine_min": float("nan")}, "cosine_min: expected at least 0.99, got nan"),
    ],
)
def test_each_bound(precision: str, change: dict[str, float], text: str) -> None:
    good = Parity("openvino", precision, "trained", 1.0, 1.0, 0.0, 0.0)
    assert good.breaches() == []
    (breach,) = good._replace(**change).breaches()
    assert text in breach


def test_fp32_may_swap_what_is_within_the_score_error() -> None:
    """The overlap alone says nothing there: a swap of equals is none."""
    row = Parity("openvino", "fp32", "trained", 1.0, 0.9, 0.0, SCORE_ERROR)
    assert row.breaches() == []


def test_what_a_list_loses(judge: Judge) -> None:
    """An item that is worse by a known share of the largest score in the place of a best one."""
    lists = judge._lists
    assert lists is not None
    best = judge._best[0]
    assert lists.lost(best, best, judge.reference[0]) < 1e-6
    turned = best._replace(items=best.items[:, ::-1])
    h, c = judge.reference[0].astype(np.float64), judge.subject.candidates.astype(np.float64)
    scores = np.take_along_axis(h @ c.T + judge.subject.bias, best.items, axis=1)
    scale = np.linalg.norm(h, axis=1)[:, None] * np.linalg.norm(c, axis=1).max()
    expected = (np.abs(scores - scores[:, ::-1]) / scale).max()
    assert lists.lost(turned, best, judge.reference[0]) == pytest.approx(expected, rel=1e-3)
    assert expected > SCORE_ERROR


def test_no_runtime_of_this_name(subject: Subject) -> None:
    with pytest.raises(ValueError, match=r"runtime: expected one of .*'openvino'.*got 'abacus'"):
        open_encoder("abacus", "fp32", subject, {}, {}, 1)


def test_the_smallest_cosine_of_both_vectors() -> None:
    same, turned = np.eye(2), np.array([[1.0, 0.0], [1.0, 1.0]])
    assert lowest_cosine((same, same), (same, same)) == 1
    assert lowest_cosine((same, same), (same, turned)) == pytest.approx(0.5**0.5)
    assert np.isnan(lowest_cosine((same, same), (same, turned * np.nan)))
