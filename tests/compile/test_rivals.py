"""encoder_ms: every family, the best of each that passes parity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.compile import rivals
from engine.compile.quantize import export_int8
from engine.compile.rivals import FAMILIES, encoder_ms, lowest_cosine
from engine.compile.samples import random_batch
from engine.model.build import model_data
from engine.model.stars import Stars
from tests.tiny import tiny_config, tiny_shop, trained_like


def test_every_family_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    config = tiny_config(window=40, hop=10, d_model=64, heads=2, d_ff=128).model
    model = trained_like(Stars(config, model_data(tiny_shop())))
    batches = [random_batch(model, 4, 40, seed, full=False) for seed in range(2)]
    export_int8(model, tmp_path / "served.onnx", batches)
    assert [path.name for path in tmp_path.iterdir()] == ["served.onnx"]
    threads = torch.get_num_threads()
    given = (model, tmp_path / "served.onnx", tmp_path, batches)
    found = encoder_ms(*given, length=40, rounds=3)
    assert torch.get_num_threads() == threads
    assert set(found) == set(FAMILIES)
    assert found["cpu"]["precision"] == "int8"
    assert found["torch_eager"]["precision"] == "fp32"
    for row in found.values():
        assert 0 < row["p50"] <= row["p95"]
    # A family that cannot pass is an error, and not left out.
    monkeypatch.setitem(rivals.COSINE_BOUNDS, "int8", 1.1)
    with pytest.raises(ValueError, match=r"parity of each family, not of \['cpu', 'pooled_same"):
        encoder_ms(*given, length=40, rounds=1)


def test_the_smallest_cosine_of_both_vectors() -> None:
    same, turned = np.eye(2), np.array([[1.0, 0.0], [1.0, 1.0]])
    assert lowest_cosine((same, same), (same, same)) == 1
    assert lowest_cosine((same, same), (same, turned)) == pytest.approx(0.5**0.5)
