"""Planted faults, through the real cases and the real gate: each is caught by its own row."""

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import encoders, gate, kernel_numbers
from benchmarks.case import ENGINE
from benchmarks.cases import encoder, request, retrieval
from benchmarks.encoders import Encoders, Way
from benchmarks.gate_rows import GATES
from engine.bundle import ENCODE_FILE
from engine.compile.onnx import save, trace_encoder
from engine.compile.typed import typed
from engine.retrieval.index import TopK
from engine.retrieval.merge import RankedList
from engine.retrieval.quantised import QuantisedIndex
from engine.runtime.inputs import Batch
from engine.runtime.onnx_cpu import OnnxEncoder
from engine.runtime.torch import TorchEncoder
from engine.serving import recommender
from engine.serving.recommender import Recommender
from tests.benchmarks.test_gate_rows import written
from tests.tiny import tiny_config

ROOT = Path(__file__).resolve().parents[2]
ROWS = tomllib.loads(GATES.read_text())["gate"]
Rows = dict[str, dict[str, Any]]
Held = Callable[..., tuple[int, Rows]]


@pytest.fixture
def held(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Held:
    """Runs the rows of a case as gates.toml has them, but for `bounds` of the rows that it names.

    Small shapes have ratios of their own, so the bounds of what is asked of a small bundle are a
    multiple of what the unchanged code takes. Returns the exit status, and the rows by name.
    """
    monkeypatch.setattr(gate, "KEPT", tmp_path / "results.json")
    monkeypatch.setattr(request, "ROUNDS", 30)
    monkeypatch.setattr(retrieval, "ROUNDS", 20)

    def run(case: str, **bounds: float) -> tuple[int, Rows]:
        rows = [row | bounds for row in ROWS if row["case"] == case]
        out, gates = tmp_path / "verdict.json", written(tmp_path, *rows)
        asked = ["--gates", str(gates), "--bundle", str(bundle), "--json", str(out)]
        status = gate.main([*asked, "--budget-s", "60"])
        return status, {row["name"]: row for row in json.loads(out.read_text())["rows"]}

    return run


def thrice_the_unchanged(held: Held, case: str, row: str) -> float:
    """A bound: three times what the row has on the unchanged code, which keeps it."""
    bound = 3 * held(case, at_most=1e6)[1][row]["value"]
    status, rows = held(case, at_most=bound)
    assert (status, rows[row]["verdict"]) == (0, "pass")
    return bound


def again(function: Callable[..., Any], times: int) -> Callable[..., Any]:
    """The function, its work done so many times over."""

    def slow(*arguments: Any, **named: Any) -> Any:
        for _ in range(times - 1):
            function(*arguments, **named)
        return function(*arguments, **named)

    return slow


class SmallEncoders(Encoders):
    """The one graph that serves, and torch, which needs no compiler."""

    def _write_graphs(self) -> None:
        save(typed(trace_encoder(self.model), "fp32"), self.folder / ENCODE_FILE)

    def ways(self, batch: Batch) -> dict[str, Way]:
        torch = TorchEncoder(self.model)
        return {
            ENGINE: Way("fp32", lambda: self.engine.encode(batch)),
            "torch_eager": Way("fp32", lambda: torch.encode(batch)),
        }


def test_gate_catches_a_slow_encoder(
    held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoders, "load_config", lambda preset: tiny_config(window=40, hop=10))
    small = SmallEncoders("small", 1, tmp_path)
    monkeypatch.setattr(encoder, "Encoders", lambda preset, threads: small)
    row = "encoder of `small` beside torch"
    bound = thrice_the_unchanged(held, "encode_small", row)
    monkeypatch.setattr(OnnxEncoder, "encode", again(OnnxEncoder.encode, 12))
    status, rows = held("encode_small", at_most=bound)
    assert (status, rows[row]["verdict"]) == (1, "breach")


def test_gate_catches_a_slow_search(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    status, rows = held("search_filtered")
    assert (status, {row["verdict"] for row in rows.values()}) == (0, {"pass"})
    monkeypatch.setattr(QuantisedIndex, "_search", again(QuantisedIndex._search, 40))
    status, rows = held("search_filtered")
    assert status == 1
    assert rows["filtered search beside FAISS"]["verdict"] == "breach"
    assert rows["filtered search beside NumPy"]["verdict"] == "breach"


def test_gate_catches_a_slow_request_path(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    case, row = "stored_request_in_process", "stored request in process"
    bound = thrice_the_unchanged(held, case, row)
    monkeypatch.setattr(Recommender, "recommend", again(Recommender.recommend, 12))
    status, rows = held(case, at_most=bound)
    assert (status, rows[row]["verdict"]) == (1, "breach")


def test_gate_catches_a_wrong_top_k_of_the_search(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = QuantisedIndex._search

    def without_the_best(self: QuantisedIndex, queries: Any, k: int, mask: Any) -> TopK:
        found = right(self, queries, k + 1, mask)
        return TopK(found.scores[:, 1:], found.items[:, 1:])

    monkeypatch.setattr(QuantisedIndex, "_search", without_the_best)
    status, rows = held("search_filtered")
    assert (status, {row["verdict"] for row in rows.values()}) == (1, {"wrong"})
    assert "recall: expected 1.0, got 0.9" in rows["filtered search beside FAISS"]["reason"]
    status, rows = held("search_recall")
    assert status == 1
    assert rows["recall of search in 8 bits"]["verdict"] == "breach"
    assert rows["recall of exact search"]["verdict"] == "pass"


def test_gate_catches_a_wrong_top_k_of_a_request(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = recommender.ranked

    def second_first(*arguments: Any) -> RankedList:
        found = right(*arguments)
        found.items[:2] = found.items[1::-1].copy()
        return found

    monkeypatch.setattr(recommender, "ranked", second_first)
    status, rows = held("stored_request_in_process")
    assert (status, rows["stored request in process"]["verdict"]) == (1, "wrong")
    assert "stars: request 0" in rows["stored request in process"]["reason"]


def test_gate_catches_a_spilling_kernel(
    held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One operator, shape and card of a copy of the kernels, as the case compiles them all."""
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    (tmp_path / "benchmarks").mkdir()
    for name in ("__init__.py", "kernel_numbers.py"):
        shutil.copy(ROOT / "benchmarks" / name, tmp_path / "benchmarks")
    monkeypatch.setattr(kernel_numbers, "ROOT", tmp_path)
    kernels, op = tmp_path / "kernels", tmp_path / "kernels" / "score_topk"
    replace(kernels / "__init__.py", "OPS = (", 'OPS = ("score_topk",)\n_OTHERS = (')
    replace(op / "cases.py", "return [", "return [_case(Shape(16, 10), 1.1, why=few)]\n    [")
    (kernels / "cards.py").open("a").write("CARDS = {90: CARDS[90]}\n")
    status, rows = held("kernel_resources")
    assert (status, {row["verdict"] for row in rows.values()}) == (0, {"pass"})
    replace(op / "launch.py", "(16, 128, Config(16, 264, 8, 2, 4))", "(16, 128, ONE_WARP)")
    replace(op / "launch.py", "CONFIGS = (", "ONE_WARP = Config(16, 264, 8, 2, 1)\nCONFIGS = (")
    status, rows = held("kernel_resources")
    assert (status, rows["spills"]["verdict"]) == (1, "breach")
    assert rows["spills"]["value"] > 0


def replace(path: Path, old: str, new: str) -> None:
    """Replaces what stands in the file once."""
    source = path.read_text()
    assert source.count(old) == 1, f"{path.name} holds {old!r} {source.count(old)} times"
    path.write_text(source.replace(old, new))
