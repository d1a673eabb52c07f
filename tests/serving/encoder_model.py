"""A stand-in of the plan: the bundle's graph by ONNX Runtime, in a plan's shapes and no others."""

import json
import os
from pathlib import Path

import onnxruntime
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self._buckets = json.loads(config["parameters"]["buckets"]["string_value"])
        graph = Path(os.environ["STARS_BUNDLE"]) / "encode.onnx"
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        given = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        shape = list(given["rows"].shape[:2])
        if shape not in self._buckets:
            error = pb_utils.TritonError(f"no profile for {shape}")
            return pb_utils.InferenceResponse(error=error)
        names = ["h_next", "h_gen"]
        answers = self._session.run(names, given)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in zip(names, answers, strict=True)]
        )
