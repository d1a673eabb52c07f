"""Measuring beside the null model."""

from __future__ import annotations

import numpy as np
import tritonclient.grpc

from engine.serving.client import StarsClient
from engine.serving.latency import measure
from engine.serving.server import TritonServer


def test_both_models_are_timed_by_turns(server: TritonServer) -> None:
    requests = [{"user_id": "a"}, {"user_id": "b", "k": 20}]
    measured = measure(server.grpc_url, requests, n=20, warm_up=2)
    assert list(measured) == ["stars", "stars_null"]
    for figures in measured.values():
        assert figures["n"] == 20
        assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"]
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        statistics = client.get_inference_statistics("stars_null").model_stats[0]
    assert statistics.inference_count >= 22


def test_the_null_model_has_the_tensors_of_stars(server: TritonServer) -> None:
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        stars, null = (client.get_model_metadata(name) for name in ("stars", "stars_null"))
        assert stars.inputs == null.inputs
        assert stars.outputs == null.outputs
        users = tritonclient.grpc.InferInput("user_id", [2, 1], "BYTES")
        users.set_data_from_numpy(np.array([[b"a"], [b"b"]], dtype=object))
        answer = client.infer("stars_null", [users], parameters={"k": 7, "explain": True})
    assert (answer.as_numpy("item_ids") == np.full((2, 7), -1)).all()
    assert (answer.as_numpy("source") == np.full((2, 7), -1)).all()
    assert (answer.as_numpy("scores") == np.zeros((2, 7), np.float32)).all()


def test_the_null_model_answers_our_client(server: TritonServer) -> None:
    with StarsClient(server.grpc_url, model="stars_null") as client:
        assert client.recommend("a").item_ids.tolist() == []
