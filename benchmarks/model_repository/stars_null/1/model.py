"""The null model: k items that are none, for every request, whatever it asks."""

from __future__ import annotations  # the server fills pb_utils in after this module is read

import json
from functools import lru_cache

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Answers with the outputs of `stars`, from constants."""

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list:
        """One response a request, [B, k] as asked."""
        return [
            pb_utils.InferenceResponse(
                _outputs(
                    request.inputs()[0].shape()[0],
                    json.loads(request.parameters() or "{}").get("k", 10),
                )
            )
            for request in requests
        ]


@lru_cache(maxsize=64)
def _outputs(batch: int, k: int) -> list[pb_utils.Tensor]:
    # The scores are finite, since perf_analyzer cannot export others.
    return [
        pb_utils.Tensor("item_ids", np.full((batch, k), -1, np.int64)),
        pb_utils.Tensor("scores", np.zeros((batch, k), np.float32)),
        pb_utils.Tensor("source", np.full((batch, k), -1, np.int32)),
    ]
