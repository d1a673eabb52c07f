"""The front model: parses the requests of a batch, asks the engine once, replies to each."""

from __future__ import annotations  # the server fills pb_utils in after this module is read

import asyncio  # noqa: F401  the backend imports it itself, in the middle of the first request
import gc
import json
import os
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils
from threadpoolctl import threadpool_limits

from engine.errors import BundleError, RequestError, StarsError, StoreError
from engine.serving.metrics import Metrics, readings
from engine.serving.options import Options
from engine.serving.recommender import Recommender
from engine.serving.request import Reply, Request, at_row, parse


class TritonPythonModel:
    """Triton Server calls initialize once a process, then execute once a batch of requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the bundle; environment variables win over the model's configuration."""
        given = json.loads(args["model_config"])["parameters"]
        parameters = {name: value["string_value"] for name, value in given.items()}
        repository = Path(args["model_repository"]).parent
        bundle = repository.parent / (os.environ.get("STARS_BUNDLE") or parameters["bundle"])
        encoder = None
        if "encoder" in parameters:
            # Here, so that a server without such a model imports nothing of gRPC.
            from engine.serving.plan_encoder import PlanEncoder

            encoder = PlanEncoder(pb_utils, repository / parameters["encoder"])
        options = Options.read(parameters, os.environ)
        # numpy's threads would spin beside the server's own.
        threadpool_limits(options.threads, "blas")
        self._recommender = Recommender.load(bundle, options, encoder)
        self._recommender.warm_up(live=encoder is None)  # another model cannot be asked from here
        for sentence in self._recommender.chosen:
            pb_utils.Logger.log_info(f"stars: {sentence}")
        labels = {"model": args["model_name"], "instance": args["model_instance_name"]}
        self._metrics = Metrics(pb_utils.MetricFamily, labels, readings(self._recommender))
        self._metrics.start()
        # What is loaded stays: to look through it for garbage would hold up requests.
        gc.collect()
        gc.freeze()

    def finalize(self) -> None:
        """Called once, when the server unloads the model."""
        self._metrics.stop()

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list:
        """One response a request, in order; a bad request spoils no other of its batch."""
        self._take_up_items()
        now_s = int(time.time())
        parsed = [_parse(request, now_s) for request in requests]
        rows = [row for request in parsed if isinstance(request, list) for row in request]
        outcomes = iter(self._recommender.recommend(rows) if rows else ())
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


def _respond(outcomes: list[Reply | RequestError | StoreError]) -> pb_utils.InferenceResponse:
    for row, outcome in enumerate(outcomes):
        if isinstance(outcome, StarsError):
            return _error(at_row(outcome, row, len(outcomes)))
    outputs = [
        pb_utils.Tensor(name, np.stack([getattr(reply, name) for reply in outcomes]))
        for name in ("item_ids", "scores", "source")
    ]
    if outcomes[0].objective_scores is not None:
        scores = np.stack([reply.objective_scores for reply in outcomes])
        outputs.append(pb_utils.Tensor("objective_scores", scores))
    if outcomes[0].explanation is not None:
        texts = [[reply.explanation.encode()] for reply in outcomes]
        outputs.append(pb_utils.Tensor("explanation", np.array(texts, dtype=object)))
    return pb_utils.InferenceResponse(outputs)


def _error(error: RequestError | StoreError) -> pb_utils.InferenceResponse:
    codes = pb_utils.TritonError
    code = codes.INVALID_ARG if isinstance(error, RequestError) else codes.UNAVAILABLE
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
