"""The front model: parses the requests of a batch, asks the engine once, replies to each."""

from __future__ import annotations  # the server fills pb_utils in after this module is read

import asyncio  # noqa: F401  the backend imports it itself, in the middle of the first request
import json
import os
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from engine.errors import BundleError, RequestError
from engine.serving.live import KINDS, LiveEncoder
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request, at_row, parse


class TritonPythonModel:
    """Triton Server calls initialize once a process, then execute once a batch of requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the bundle; environment variables win over the model's configuration."""
        given = json.loads(args["model_config"])["parameters"]
        parameters = {name: value["string_value"] for name, value in given.items()}
        for name in ("bundle", "threads", "runtime", "cache_mib"):
            parameters[name] = os.environ.get(f"STARS_{name.upper()}") or parameters[name]
        repository = Path(args["model_repository"]).parent
        encoder = parameters["runtime"]
        if "encoder" in parameters:
            # Here, so that a server without such a model imports nothing of gRPC.
            from engine.serving.plan_encoder import PlanEncoder

            encoder = PlanEncoder(pb_utils, repository / parameters["encoder"])
        self._recommender = Recommender.load(
            repository.parent / parameters["bundle"],
            int(parameters["threads"]),
            encoder,
            int(parameters["cache_mib"]),
        )
        choice = self._recommender.choice
        if choice is not None:
            runtime = f"{choice.runtime}-{choice.precision} ({choice.reason})"
            pb_utils.Logger.log_info(f"stars: encodes by {runtime}")
        self._metrics = _LiveMetrics(args, self._recommender.live)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list:
        """One response a request, in order; a bad request spoils no other of its batch."""
        self._take_up_items()
        now_s = int(time.time())
        parsed = [_parse(request, now_s) for request in requests]
        rows = [row for request in parsed if isinstance(request, list) for row in request]
        outcomes = iter(self._recommender.recommend(rows) if rows else ())
        self._metrics.update()
        return [
            _error(request)
            if isinstance(request, RequestError)
            else _respond([next(outcomes) for _ in request])
            for request in parsed
        ]

    def _take_up_items(self) -> None:
        """Changes of the items count from this batch on; broken ones are said and left out."""
        try:
            self._recommender.update_items()
        except BundleError as error:
            pb_utils.Logger.log_error(f"stars: the items stay as they were: {error}")


class _LiveMetrics:
    """What the encoder of live requests counts, as metrics of the server."""

    def __init__(self, args: dict[str, str], live: LiveEncoder) -> None:
        model = {"model": args["model_name"], "instance": args["model_instance_name"]}
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self._live = live
        self._requests = pb_utils.MetricFamily(
            name="stars_live_requests_total",
            description="Live requests by how their vectors came about",
            kind=counter,
        )
        self._evicted = pb_utils.MetricFamily(
            name="stars_cache_evicted_total",
            description="Users whose keys and values were forgotten for others",
            kind=counter,
        )
        self._bytes = pb_utils.MetricFamily(
            name="stars_cache_bytes",
            description="Memory of the users' keys and values",
            kind=gauge,
        )
        self._counters = {
            kind: self._requests.Metric(labels=model | {"kind": kind}) for kind in KINDS
        } | {"evicted": self._evicted.Metric(labels=model)}
        self._gauge = self._bytes.Metric(labels=model)
        self._told = live.counts.copy(), live.bytes

    def update(self) -> None:
        """Tells the server what has changed; each value is a message to its process."""
        told, told_bytes = self._told
        counts, size = self._live.counts, self._live.bytes
        if counts == told:
            return
        for kind, more in (counts - told).items():
            self._counters[kind].increment(more)
        if size != told_bytes:
            self._gauge.set(size)
        self._told = counts.copy(), size


def _parse(request: pb_utils.InferenceRequest, now_s: int) -> list[Request] | RequestError:
    try:
        parameters = request.parameters()
    except UnicodeDecodeError as error:
        # Triton Server passes the bytes of HTTP parameters on without looking at them.
        return RequestError(f"parameters: expected UTF-8 text, got {error.object[:80]!r}")
    tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    try:
        return parse(tensors, parameters, now_s)
    except RequestError as error:
        return error


def _respond(outcomes: list[Reply | RequestError]) -> pb_utils.InferenceResponse:
    for row, outcome in enumerate(outcomes):
        if isinstance(outcome, RequestError):
            return _error(at_row(outcome, row, len(outcomes)))
    outputs = [
        pb_utils.Tensor(name, np.stack([getattr(reply, name) for reply in outcomes]))
        for name in ("item_ids", "scores", "source")
    ]
    if outcomes[0].explanation is not None:
        texts = [[reply.explanation.encode()] for reply in outcomes]
        outputs.append(pb_utils.Tensor("explanation", np.array(texts, dtype=object)))
    return pb_utils.InferenceResponse(outputs)


def _error(error: RequestError) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(
        error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    )
