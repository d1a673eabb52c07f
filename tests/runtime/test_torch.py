"""The model as a runtime."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from engine.compile.samples import random_batch
from engine.errors import BackendUnavailable
from engine.model.build import build_model
from engine.model.stars import Stars
from engine.runtime.torch import TorchEncoder
from tests.tiny import cosine, encoded, tiny_config, tiny_shop, trained_like


@pytest.fixture(scope="module")
def model() -> Stars:
    return trained_like(build_model(tiny_config().model, tiny_shop(), seed=0))


def test_it_is_the_model(model: Stars) -> None:
    batch = random_batch(model, 5, 13, seed=2, full=False)
    for ours, theirs in zip(TorchEncoder(model).encode(batch), encoded(model, batch), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, theirs)


def test_half_types(model: Stars) -> None:
    batch = random_batch(model, 5, 13, seed=2, full=False)
    got = TorchEncoder(model, precision="bf16").encode(batch)
    for ours, theirs in zip(got, encoded(model, batch), strict=True):
        assert not np.array_equal(ours, theirs)
        assert cosine(ours, theirs) > 0.999


def test_what_it_refuses(model: Stars, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"precision: expected one of \['fp32', .*, got 'int8'"):
        TorchEncoder(model, precision="int8")
    batch = dict(random_batch(model, 2, 3, seed=0))
    batch["rows"] = batch["rows"][..., :-1]
    encoder = TorchEncoder(model)
    with pytest.raises(ValueError, match="encode rows: expected shape"):
        encoder.encode(batch)
    if not torch.cuda.is_available():
        with pytest.raises(BackendUnavailable, match=r"an NVIDIA GPU .* for cuda, got PyT"):
            TorchEncoder(model, device="cuda")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendUnavailable, match="expected the package torch, got none"):
        TorchEncoder(model)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: not run on a card")
def test_on_the_card(model: Stars) -> None:
    batch = random_batch(model, 5, 13, seed=2, full=False)
    expected = encoded(model, batch)
    got = TorchEncoder(model, device="cuda").encode(batch)
    model.cpu()
    for ours, theirs in zip(got, expected, strict=True):
        assert cosine(ours, theirs) > 0.9999
