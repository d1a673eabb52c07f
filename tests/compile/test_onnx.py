from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from engine.compile.onnx import INPUTS, OUTPUTS, EncodeGraph, export_encoder
from engine.model.build import build_model, model_data
from engine.model.stars import Stars
from tests.tiny import random_inputs, tiny_config, tiny_shop, trained_like

SHAPES = [(1, 1), (1, 200), (3, 17), (4, 200), (7, 1), (2, 199)]
WINDOW = 200


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stars, Path]:
    config = tiny_config(window=WINDOW, hop=50).model
    torch.manual_seed(0)
    model = trained_like(Stars(config, replace(model_data(tiny_shop()), n_event_types=3)))
    path = tmp_path_factory.mktemp("graph") / "encode.onnx"
    export_encoder(model, path)
    return model, path


def compare(model: Stars, path: Path, batch: int, length: int) -> None:
    inputs = random_inputs(model, batch, length, seed=batch * 1000 + length)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run(list(OUTPUTS), inputs)
    with torch.no_grad():
        expected = EncodeGraph(model)(*(torch.from_numpy(inputs[name]) for name in INPUTS))
    for name, ours, theirs in zip(OUTPUTS, got, expected, strict=True):
        assert ours.shape == (batch, model.config.d_serve)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("batch", "length"), SHAPES)
def test_the_graph_equals_torch(exported: tuple[Stars, Path], batch: int, length: int) -> None:
    compare(*exported, batch, length)


def test_batch_and_length_are_dynamic(exported: tuple[Stars, Path]) -> None:
    graph = onnx.load(exported[1]).graph
    assert tuple(value.name for value in graph.input) == INPUTS
    assert tuple(value.name for value in graph.output) == OUTPUTS
    dims = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in graph.input
    }
    model = exported[0]
    assert dims["rows"] == ["batch", "length", model.config.d_model]
    for name in ("event_type", "hour", "weekday", "week", "day", "recency"):
        assert dims[name] == ["batch", "length"]
    assert dims["signals"] == ["batch", "length", 2]
    assert dims["length"] == ["batch"]
    assert dims["user_categorical"] == ["batch", 1]
    assert dims["user_numeric"] == dims["user_known"] == ["batch", 1]


def test_no_input_is_ignored(exported: tuple[Stars, Path]) -> None:
    model, path = exported
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = random_inputs(model, 4, 30, seed=3)
    inputs["user_known"][:] = 1
    before = session.run(list(OUTPUTS), inputs)
    for name in INPUTS:
        value = inputs[name].copy()
        if name == "user_categorical":
            value = (value + 1) % model.user.tables[0].num_embeddings
        elif name == "length":
            value = np.full_like(value, 29)
        elif name == "day":
            value[:, 20:] += 300
        elif value.dtype == np.float32:
            value = value * 0.5
        else:
            value = (value + 1) % len(getattr(model, name))
        after = session.run(list(OUTPUTS), inputs | {name: value})
        for output, x, y in zip(OUTPUTS, before, after, strict=True):
            assert not np.allclose(x, y, atol=1e-6), (name, output)


def test_the_folder_holds_the_graph_and_nothing_that_could_run_code(
    exported: tuple[Stars, Path],
) -> None:
    _, path = exported
    assert [p.name for p in path.parent.iterdir()] == ["encode.onnx"]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    domains = {node.domain for node in onnx.load(path).graph.node}
    assert domains <= {"", "ai.onnx"}


def test_pooling_cls_exports(tmp_path: Path) -> None:
    config = tiny_config(window=WINDOW, hop=50, layers=1, pooling="cls").model
    model = trained_like(build_model(config, tiny_shop(), seed=0))
    export_encoder(model, tmp_path / "encode.onnx")
    compare(model, tmp_path / "encode.onnx", 4, 23)


def test_a_shop_without_profiles_signals_or_time_exports(tmp_path: Path) -> None:
    bare = replace(
        model_data(tiny_shop(with_time=False)), category_sizes=[], n_user_numeric=0, n_signals=0
    )
    config = tiny_config(window=WINDOW, hop=50, layers=1, day_bias=False).model
    model = trained_like(Stars(config, bare))
    export_encoder(model, tmp_path / "encode.onnx")
    for batch, length in [(1, 1), (3, 200)]:
        compare(model, tmp_path / "encode.onnx", batch, length)
