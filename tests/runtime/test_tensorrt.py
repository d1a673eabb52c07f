"""What of the TensorRT runtime runs without a card; the rest is marked `gpu`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.compile.onnx import export_encoder
from engine.compile.samples import random_batch
from engine.compile.tensorrt import build_plan
from engine.errors import BackendUnavailable
from engine.model.build import build_model
from engine.runtime.sidecar import Bucket, Target, sha256, write_plan
from engine.runtime.tensorrt import (
    TensorRtEncoder,
    driver_branch,
    load_module,
    padded,
    smallest,
)
from tests.runtime.graphs import inputs
from tests.tiny import cosine, encoded, tiny_config, tiny_shop, trained_like

BUCKETS = [Bucket(b, n) for n in (50, 100, 200) for b in (1, 8, 32)]


@pytest.mark.parametrize(
    ("batch", "length", "bucket"),
    [
        (1, 1, (1, 50)), (1, 50, (1, 50)), (1, 51, (1, 100)), (2, 50, (8, 50)), (8, 200, (8, 200)),
        (9, 120, (32, 200)), (100, 60, (32, 100)), (0, 1, (1, 50)),
    ],
)  # fmt: skip
def test_the_bucket_with_the_least_padding(
    batch: int, length: int, bucket: tuple[int, int]
) -> None:
    assert smallest(BUCKETS, batch, length) == bucket


def test_no_bucket_is_long_enough() -> None:
    with pytest.raises(ValueError, match="encode: expected at most 200 events, got 201"):
        smallest(BUCKETS, 1, 201)


def test_padding_is_zero() -> None:
    given = inputs(2, 2)  # as wide as it is long: axes are told apart by name
    given["user_numeric"] = np.ones((2, 2), np.float32)
    made = padded(given, Bucket(4, 3))
    assert made["rows"].shape == (4, 3, 3)
    assert made["hour"].shape == (4, 3)
    assert made["length"].shape == (4,)
    assert made["user_numeric"].shape == (4, 2)
    np.testing.assert_array_equal(made["rows"][:2, :2], given["rows"])
    assert not made["rows"][2:].any()
    assert not made["rows"][:, 2:].any()
    assert not made["user_numeric"][2:].any()
    assert {name: array.dtype for name, array in made.items()} == {
        name: array.dtype for name, array in given.items()
    }


@pytest.mark.parametrize(
    ("text", "branch"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 2023\n", 535),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release\n", 580),
        ("something else", None),
        (None, None),
    ],
)
def test_the_drivers_branch(tmp_path: Path, text: str | None, branch: int | None) -> None:
    path = tmp_path / "version"
    if text is not None:
        path.write_text(text)
    assert driver_branch(path) == branch


def test_without_a_card(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    if torch.cuda.is_available():
        pytest.skip("this machine has a card")
    with pytest.raises(BackendUnavailable, match="tensorrt-rtx: expected an NVIDIA GPU with its"):
        TensorRtEncoder(tmp_path / "encode.rtx", "tensorrt-rtx")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: no plan was run")
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_a_plan_runs_on_the_card(tmp_path: Path, target: Target) -> None:
    """Every bucket, padded batches, a batch that is cut, and the graph's second replay."""
    trt = load_module(target)
    model = trained_like(build_model(tiny_config().model, tiny_shop(), seed=0))
    export_encoder(model, tmp_path / "encode.onnx", "fp16")
    graph = (tmp_path / "encode.onnx").read_bytes()
    major, minor = torch.cuda.get_device_capability()
    buckets = [Bucket(1, 20), Bucket(4, 10), Bucket(4, 20)]
    plan = build_plan(trt, target, graph, "fp16", buckets, sms=(10 * major + minor,))
    write_plan(tmp_path / "encode.plan", plan.content, plan.sidecar)
    encoder = TensorRtEncoder(tmp_path / "encode.plan", target, sha256(graph))
    for batch, length in [(1, 20), (1, 3), (3, 7), (4, 10), (4, 15), (9, 20), (0, 1)] * 2:
        given = random_batch(model, batch, length, seed=batch, full=False)
        for ours, theirs in zip(encoder.encode(given), encoded(model, given), strict=True):
            assert ours.shape == theirs.shape
            assert not batch or cosine(ours, theirs) > 0.999
