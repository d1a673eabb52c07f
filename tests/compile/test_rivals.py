"""encoder_ms and append_ms: every family, the best of each that passes parity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.compile import rivals
from engine.compile.export import export_graphs
from engine.compile.parity import BOUNDS, lowest_cosine
from engine.compile.rivals import FAMILIES, race
from engine.compile.samples import random_batch
from engine.model.build import model_data
from engine.model.stars import Stars
from engine.runtime.openvino import OpenVinoAppendEncoder
from tests.tiny import encoded, tiny_config, tiny_shop, trained_like


def test_every_family_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = tiny_config(window=40, hop=10, layers=1, d_model=64, heads=2, d_ff=128).model
    model = trained_like(Stars(config, model_data(tiny_shop())))
    batches = [random_batch(model, 4, 40, seed, full=False) for seed in range(2)]
    (tmp_path / "ours").mkdir()
    export_graphs(model, tmp_path / "ours", batches)
    ours = {
        name: {"fp32": tmp_path / f"ours/{name}.onnx", "int8": tmp_path / f"ours/{name}.int8.onnx"}
        for name in ("encode", "append")
    }
    threads = torch.get_num_threads()
    given = (model, ours["encode"], ours["append"], tmp_path, batches)
    found = race(*given, rounds=3)
    assert torch.get_num_threads() == threads
    assert set(found.encoder_ms) == set(FAMILIES)
    assert found.encoder_ms["torch_eager"]["precision"] == "fp32"
    for row in found.encoder_ms.values():
        assert set(row) == {"p50", "p95", "precision"}
        assert 0 < row["p50"] <= row["p95"]
    assert found.append_ms is not None
    assert found.append_ms["full_p50"] == found.encoder_ms["cpu"]["p50"]
    families = [row["family"] for row in found.contenders]
    assert set(families) == {*FAMILIES, "append", "cpu_int8", "append_int8"}
    assert set(found.append_alone_ms or {}) == {"p50", "full_p50"}
    assert families.count("openvino_plain") > 3
    for family in FAMILIES:
        times = [row["p50"] for row in found.contenders if row["family"] == family]
        assert found.encoder_ms[family]["p50"] == min(times)
    # A family that cannot pass is an error, and not left out.
    monkeypatch.setitem(rivals.BOUNDS, "int8", BOUNDS["int8"]._replace(cosine=1.1))
    with pytest.raises(rivals.CompileError, match=r"parity of each family, not of .*pooled_same"):
        race(*given, rounds=1)


def test_one_event_is_appended_again_and_again(tmp_path: Path) -> None:
    model = trained_like(Stars(tiny_config(layers=1).model, model_data(tiny_shop())))
    export_graphs(model, tmp_path, [random_batch(model, 4, 20, 0)])
    batch = random_batch(model, 1, 20, seed=1)
    encoder = OpenVinoAppendEncoder(tmp_path / "append.onnx", 21, exact=True)
    call = rivals._appending(encoder, batch)
    first, second = call(), call()
    np.testing.assert_array_equal(first, second)
    assert lowest_cosine(first, encoded(model, dict(batch))) > 0.99999
