"""The front model with its encoder beside it, as on a GPU: one call a batch, the same answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import tritonclient.grpc
from google.protobuf import text_format

from engine.bundle import ENCODE_FILE
from engine.compile.server_model import MODEL, server_config
from engine.errors import BackendUnavailable, ConfigError
from engine.runtime.inputs import OUTPUTS
from engine.runtime.onnx_cpu import OnnxEncoder
from engine.runtime.sidecar import Bucket
from engine.serving.client import StarsClient
from engine.serving.plan_encoder import PlanEncoder
from engine.serving.server import MODEL_REPOSITORY, TritonServer
from tests.tiny import random_inputs

BUCKETS = (Bucket(1, 20), Bucket(1, 40), Bucket(4, 40))
TIME = 1_714_600_000  # after the shop's last event
USER = "user-000"


def on_a_cpu(config: Any) -> Any:
    """The plan's configuration, served by Python: everything that clients see is left."""
    config.backend, config.platform = "python", ""
    config.ClearField("instance_group")
    config.ClearField("optimization")
    return config


@pytest.fixture(scope="module")
def repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(MODEL_REPOSITORY / "stars", folder / "stars")
    encoder = folder / MODEL
    (encoder / "1").mkdir(parents=True)
    shutil.copy(Path(__file__).parent / "encoder_model.py", encoder / "1" / "model.py")
    config = on_a_cpu(server_config((bundle / ENCODE_FILE).read_bytes(), BUCKETS))
    (encoder / "config.pbtxt").write_text(text_format.MessageToString(config))
    return folder


@pytest.fixture(scope="module")
def beside(repository: Path, bundle: Path) -> Iterator[TritonServer]:
    options = ["--model-config-name=gpu"]
    with TritonServer([repository], bundle, extra_args=options) as running:
        yield running


def calls(server: TritonServer) -> int:
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        (statistics,) = client.get_inference_statistics(MODEL).model_stats
        return int(statistics.execution_count)


def test_the_answers_are_the_in_process_encoders(
    beside: TritonServer, server: TritonServer, catalogue: list[int]
) -> None:
    histories = [catalogue[:3], catalogue[5:6], catalogue[10:45], catalogue[2:22]]
    with StarsClient(beside.grpc_url) as ours, StarsClient(server.grpc_url) as theirs:
        for user in (None, USER):
            for items in histories:
                given = {"item_ids": items, "time": TIME, "k": 10}
                got, wanted = ours.recommend(user, **given), theirs.recommend(user, **given)
                assert got.item_ids.tolist() == wanted.item_ids.tolist()
                np.testing.assert_allclose(got.scores, wanted.scores, rtol=1e-4, atol=1e-5)


def test_a_batch_is_one_call_and_a_stored_user_none(
    beside: TritonServer, catalogue: list[int]
) -> None:
    with StarsClient(beside.grpc_url) as client:
        before = calls(beside)
        client.recommend(USER, k=5)
        assert calls(beside) == before
        client.recommend_batch([None] * 3, [catalogue[:2], catalogue[:7], catalogue[3:5]], k=5)
        assert calls(beside) == before + 1


def utils(answer: Any) -> Any:
    made = MagicMock()
    made.Tensor = lambda name, array: (name, array)

    def request(**given: Any) -> Any:
        made.asked = given
        exchange = MagicMock()
        exchange.exec.return_value = answer(dict(given["inputs"]))
        return exchange

    made.InferenceRequest = request
    made.get_output_tensor_by_name = lambda response, name: response.tensors[name]
    return made


def vectors_of(bundle: Path) -> Any:
    encoder = OnnxEncoder(bundle / ENCODE_FILE)

    def answer(inputs: dict[str, Any]) -> Any:
        response = MagicMock()
        response.has_error.return_value = False
        arrays = encoder._session.run(list(OUTPUTS), inputs)
        response.tensors = {
            name: MagicMock(as_numpy=lambda array=array: array)
            for name, array in zip(OUTPUTS, arrays, strict=True)
        }
        return response

    return answer


@pytest.mark.parametrize(("batch", "length"), [(1, 7), (3, 40), (9, 13)])
def test_any_batch_equals_the_runtime(
    repository: Path, bundle: Path, trained: Any, batch: int, length: int
) -> None:
    inputs = random_inputs(trained, batch, length, seed=batch)
    made = utils(vectors_of(bundle))
    got = PlanEncoder(made, repository / MODEL).encode(inputs)
    for ours, theirs in zip(got, OnnxEncoder(bundle / ENCODE_FILE).encode(inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert made.asked["model_name"] == MODEL
    assert made.asked["requested_output_names"] == ["h_next", "h_gen"]
    made.PreferredMemory.assert_called_with(made.TRITONSERVER_MEMORY_CPU)


def test_an_error_of_the_encoder_is_raised(repository: Path, trained: Any) -> None:
    response = MagicMock()
    response.error.return_value.message.return_value = "no profile"
    encoder = PlanEncoder(utils(lambda _: response), repository / MODEL)
    text = "model stars_encoder: expected vectors of 1 x 20 events, got: no profile"
    with pytest.raises(BackendUnavailable, match=text):
        encoder.encode(random_inputs(trained, 1, 3, seed=0))


def test_a_window_longer_than_every_bucket(repository: Path, trained: Any) -> None:
    with pytest.raises(ValueError, match="encode: expected at most 40 events, got 41"):
        PlanEncoder(utils(None), repository / MODEL).encode(random_inputs(trained, 1, 41, seed=0))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "expected a model configuration, got"),
        ("input {", "expected a model configuration: "),
        ("", r"parameters\.buckets: expected \[\[batch, length\], …\], got ''"),
        ('parameters { key: "buckets" value { string_value: "[]" } }', "at least one, got none"),
        (
            'parameters { key: "buckets" value { string_value: "[[1, 2]]" } } '
            'input { name: "rows" data_type: TYPE_BF16 dims: [ -1, -1, 4 ] }',
            "input rows: expected one of .*TYPE_FP32.*, got TYPE_BF16",
        ),
        (
            'parameters { key: "buckets" value { string_value: "[[1, 2]]" } } '
            'input { name: "other" data_type: TYPE_FP32 dims: [ -1 ] }',
            "input other: expected one of",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "config.pbtxt").write_text(text)
    with pytest.raises(ConfigError, match=rf"config\.pbtxt: .*{reason}|config\.pbtxt: {reason}"):
        PlanEncoder(None, tmp_path)
