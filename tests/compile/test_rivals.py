"""encoder_ms and append_ms: every family, the best of each that passes parity."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engine.compile import rivals
from engine.compile.onnx import export_append
from engine.compile.parity import lowest_cosine
from engine.compile.rivals import FAMILIES, Contender, race
from engine.compile.samples import random_batch
from engine.compile.timing import Milliseconds
from engine.errors import CompileError
from engine.model.build import model_data
from engine.model.stars import Stars
from engine.runtime.openvino import OpenVinoAppendEncoder
from tests.tiny import encoded, tiny_config, tiny_shop, trained_like

TRUTH = (np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
Entries = dict[str, tuple[str, str, Any, float]]  # family, precision, answer, p50
AWAY = (np.ones((2, 2), np.float32), np.eye(2, dtype=np.float32))


def told(
    monkeypatch: pytest.MonkeyPatch, contenders: dict[str, tuple[str, str, Any, float]]
) -> Any:
    """race() among contenders of (family, precision, answer, p50), and who was timed in each run.

    The real ones are timed by tests/compile/test_artifacts.py.
    """
    timed: list[set[str]] = []
    p50 = {name: each[3] for name, each in contenders.items()}

    def interleaved(calls: dict[str, Any], rounds: int) -> dict[str, Milliseconds]:
        timed.append(set(calls))
        return {n: Milliseconds(p50[n], 2 * p50[n], 3 * p50[n], rounds) for n in calls}

    made = {
        name: Contender(family, precision, lambda answer=answer: answer)
        for name, (family, precision, answer, _) in contenders.items()
    }
    monkeypatch.setattr(rivals, "interleaved", interleaved)
    monkeypatch.setattr(rivals, "_ours", lambda *_: made)
    monkeypatch.setattr(rivals, "_rivals", lambda *_: {})
    monkeypatch.setattr(rivals, "TorchEncoder", lambda _: SimpleNamespace(encode=lambda _: TRUTH))
    model = Stars(tiny_config(layers=1).model, model_data(tiny_shop()))
    append = {"fp32": Path()} if any(e[0] == "append" for e in contenders.values()) else {}
    return race(model, {}, append, Path(), [], rounds=3), timed


def families(**changes: Any) -> Entries:
    return {family: (family, "fp32", TRUTH, 4.0) for family in FAMILIES} | changes


def test_the_best_of_each_family_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    found, timed = told(
        monkeypatch,
        families(
            better=("openvino_plain", "int8", TRUTH, 2.0),
            wrong=("openvino_plain", "bf16", AWAY, 1.0),
            append=("append", "fp32", TRUTH, 0.5),
        ),
    )
    assert torch.get_num_threads() == threads
    assert list(found.encoder_ms) == list(FAMILIES)
    assert found.encoder_ms["openvino_plain"] == {"p50": 2.0, "p95": 4.0, "precision": "int8"}
    assert found.encoder_ms["cpu"] == {"p50": 4.0, "p95": 8.0, "precision": "fp32"}
    assert found.append_ms == {"p50": 0.5, "full_p50": 4.0}
    assert found.append_alone_ms == {"p50": 0.5, "full_p50": 4.0}
    # What is wrong is not timed, and the pair has a run of its own.
    assert timed == [{*FAMILIES, "better", "append"}, {"cpu", "append"}]
    assert [row["p50"] for row in found.contenders] == sorted(r["p50"] for r in found.contenders)
    assert "wrong" not in {row["name"] for row in found.contenders}


def test_a_family_that_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompileError, match=r"of each family, not of \['pooled_same_graph'\]"):
        told(monkeypatch, families(pooled_same_graph=("pooled_same_graph", "int8", AWAY, 1.0)))
    with pytest.raises(CompileError, match=r"not of \['append'\]"):
        told(monkeypatch, families(append=("append", "fp32", AWAY, 1.0)))


def test_a_bidirectional_model_appends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = told(monkeypatch, families())
    assert found.append_ms is found.append_alone_ms is None


def test_one_event_is_appended_again_and_again(tmp_path: Path) -> None:
    model = trained_like(Stars(tiny_config(layers=1).model, model_data(tiny_shop())))
    export_append(model, tmp_path / "append.onnx")
    batch = random_batch(model, 1, 20, seed=1)
    encoder = OpenVinoAppendEncoder(tmp_path / "append.onnx", 21, exact=True)
    call = rivals._appending(encoder, batch)
    first, second = call(), call()
    np.testing.assert_array_equal(first, second)
    assert lowest_cosine(first, encoded(model, dict(batch))) > 0.99999
