"""New events over what is kept, in every runtime that this machine has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from engine.compile.onnx import export_append, export_encoder
from engine.compile.quantize import observe, quantize
from engine.compile.samples import random_batch
from engine.errors import BundleError
from engine.model.build import build_model
from engine.runtime import openvino
from engine.runtime.append import AppendEncoder, Kept
from engine.runtime.inputs import USER_INPUTS
from engine.runtime.onnx_cpu import OnnxAppendEncoder
from engine.runtime.openvino import OpenVinoAppendEncoder
from engine.runtime.torch import TorchAppendEncoder
from tests.runtime.graphs import write_graph
from tests.tiny import cosine, encoded, tiny_config, tiny_shop, trained_like

WINDOW = 24
MODEL = trained_like(
    build_model(tiny_config(window=WINDOW, hop=6, d_model=32).model, tiny_shop(), seed=0)
)
Batch = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    export_append(MODEL, folder / "append.onnx")
    export_encoder(MODEL, folder / "encode.onnx")
    ranges = observe(
        onnx.load(folder / "encode.onnx"), [random_batch(MODEL, 8, WINDOW, 0, full=False)]
    )
    onnx.save(quantize(onnx.load(folder / "append.onnx"), ranges), folder / "int8.onnx")
    return folder


MAKERS: dict[str, tuple[Callable[[Path], AppendEncoder], float]] = {
    "torch fp32": (lambda _: TorchAppendEncoder(MODEL), 0),
    "torch bf16": (lambda _: TorchAppendEncoder(MODEL, precision="bf16"), 0.999),
    "onnxruntime fp32": (lambda g: OnnxAppendEncoder(g / "append.onnx", WINDOW + 1), 0),
    "onnxruntime int8": (lambda g: OnnxAppendEncoder(g / "int8.onnx", WINDOW + 1), 0.99),
    "openvino fp32": (
        lambda g: OpenVinoAppendEncoder(g / "append.onnx", WINDOW + 1, exact=True), 0,
    ),
    "openvino bf16": (lambda g: OpenVinoAppendEncoder(g / "append.onnx", WINDOW + 1), 0.999),
    "openvino int8": (lambda g: OpenVinoAppendEncoder(g / "int8.onnx", WINDOW + 1, 2), 0.99),
}  # fmt: skip


def part(batch: Batch, first: int, last: int) -> Batch:
    """Events first … last - 1 of every user."""
    cut = {k: v if k in USER_INPUTS else v[:, first:last] for k, v in batch.items()}
    return cut | {"length": np.full(len(batch["length"]), last - first)}


def agree(got: tuple[Any, ...], batch: Batch, bound: float) -> None:
    for ours, theirs in zip(got, encoded(MODEL, batch), strict=True):
        assert ours.dtype == np.float32
        assert cosine(ours, theirs) > bound
        if bound == 0:
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_appending_equals_encoding(graphs: Path, name: str) -> None:
    make, bound = MAKERS[name]
    encoder = make(graphs)
    for n_users, pieces in ((1, (WINDOW - 1, 1)), (1, (1, 1, 1)), (3, (5, 1, 4))):
        batch = dict(random_batch(MODEL, n_users, sum(pieces), seed=n_users))
        kept = [encoder.empty() for _ in range(n_users)]
        done = 0
        for n in pieces:
            got = encoder.append(part(batch, done, done + n), kept)
            done += n
            agree(got, part(batch, 0, done), bound)
        assert {each.length for each in kept} == {done + 1}


@pytest.mark.parametrize("name", MAKERS)
def test_users_with_different_pasts(graphs: Path, name: str) -> None:
    make, bound = MAKERS[name]
    encoder = make(graphs)
    batch = dict(random_batch(MODEL, 2, 9, seed=5))
    kept = []
    for user, length in enumerate((8, 3)):
        one = {k: v[user : user + 1] for k, v in batch.items()}
        kept.append(encoder.empty())
        encoder.append(part(one, 0, length), kept[-1:])
    both = {
        k: v if k in USER_INPUTS else np.stack([v[0, 8:9], v[1, 3:4]]) for k, v in batch.items()
    }
    got = encoder.append(both | {"length": np.ones(2, np.int64)}, kept)
    for user, length in enumerate((9, 4)):
        one = {k: v[user : user + 1] for k, v in batch.items()}
        agree(tuple(x[user : user + 1] for x in got), part(one, 0, length), bound)


def test_what_is_kept_of_a_user(graphs: Path) -> None:
    exact = OpenVinoAppendEncoder(graphs / "append.onnx", WINDOW + 1, exact=True).empty()
    assert exact.key.shape == (2, 2, 16, WINDOW + 1)
    assert exact.value.shape == (2, 2, WINDOW + 1, 16)
    assert exact.bytes == 2 * 2 * 2 * 16 * (WINDOW + 1) * 4 + 4 * (WINDOW + 1)


def test_many_users_are_looked_up_in_parts(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO's largest look-up is of two users, of four tables each: three take two runs."""
    monkeypatch.setattr(openvino, "_LOOK_UP", 2 * 4 * 7 * 6)
    encoder = OpenVinoAppendEncoder(graphs / "append.onnx", WINDOW + 1, exact=True)
    runs = []
    infer = encoder._infer
    monkeypatch.setattr(encoder, "_infer", lambda r, *x: runs.append(len(x[1])) or infer(r, *x))
    batch = dict(random_batch(MODEL, 3, 6, seed=6))
    kept = [encoder.empty() for _ in range(3)]
    agree(encoder.append(part(batch, 0, 5), kept), part(batch, 0, 5), 0)
    agree(encoder.append(part(batch, 5, 6), kept), batch, 0)
    assert runs[:2] == [2, 1]


def test_what_it_refuses(graphs: Path, tmp_path: Path) -> None:
    encoder = OnnxAppendEncoder(graphs / "append.onnx", WINDOW + 1)
    batch = dict(random_batch(MODEL, 2, WINDOW, seed=5))

    def refused(text: str, batch: Batch, kept: list[Kept]) -> None:
        before = [each.length for each in kept]
        with pytest.raises(ValueError, match=text):
            encoder.append(batch, kept)
        assert [each.length for each in kept] == before

    new, old = encoder.empty(), encoder.empty()
    encoder.append({k: v[:1] for k, v in batch.items()}, [old])
    refused("kept: expected one of 2 users, got 1", batch, [new])
    refused(r"length: expected 24 new events of each user, got \[24, 3\]",
            batch | {"length": np.array([24, 3])}, [new, encoder.empty()])  # fmt: skip
    refused("length: expected 1 new events", part(batch, 0, 0), [new, encoder.empty()])
    refused("expected something of all users, or nothing of all", batch, [new, old])
    refused("expected at most 25 rows, got 25 and 1 new ones",
            part({k: v[:1] for k, v in batch.items()}, 0, 1), [old])  # fmt: skip
    refused("encode rows: expected floats", batch | {"rows": batch["event_type"]},
            [new, encoder.empty()])  # fmt: skip
    for kind in OnnxAppendEncoder, OpenVinoAppendEncoder:
        with pytest.raises(BundleError, match=r"expected the outputs \('h_next', 'h_gen', 'key'"):
            kind(write_graph(tmp_path / "encode.onnx"), 5)


def test_the_kept_rows_are_read(graphs: Path) -> None:
    """A planted error in what is kept changes the answer."""
    encoder = OpenVinoAppendEncoder(graphs / "append.onnx", WINDOW + 1, exact=True)
    batch = dict(random_batch(MODEL, 1, 6, seed=5))
    kept = encoder.empty()
    encoder.append(part(batch, 0, 5), [kept])
    kept.value[0, :, 2] += 1
    h_next, _ = encoder.append(part(batch, 5, 6), [kept])
    assert not np.allclose(h_next, encoded(MODEL, batch)[0], rtol=1e-3)


def test_no_fixed_shape_is_taken_on_trust(graphs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = OpenVinoAppendEncoder._infer

    def wrong(self: Any, request: Any, *rest: Any) -> Any:
        h_next, *others = real(self, request, *rest)
        return (-h_next if request is self._one else h_next, *others)

    monkeypatch.setattr(OpenVinoAppendEncoder, "_infer", wrong)
    with pytest.raises(BundleError, match=r"fixed shape \(1, 1\): expected h_next of the dynamic"):
        OpenVinoAppendEncoder(graphs / "append.onnx", WINDOW + 1)
