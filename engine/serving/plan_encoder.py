"""The encoder as another model of the same Triton Server: one call a batch, in a plan's shapes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

from engine.errors import BackendUnavailable, ConfigError
from engine.runtime.inputs import OUTPUTS, Batch, GraphInput, Vectors, graph_batch
from engine.runtime.sidecar import Bucket
from engine.runtime.tensorrt import by_bucket

BUCKETS = "buckets"  # parameter of the encoder's configuration: JSON, [[batch, length], …]
DTYPES = {"TYPE_FP32": np.float32, "TYPE_FP16": np.float16, "TYPE_INT32": np.int32}


def read_config(path: Path) -> Any:
    """The model configuration in a file. Raises ConfigError for what Triton Server would refuse."""
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except OSError as error:
        raise ConfigError(f"{path}: expected a model configuration, got {error}") from error
    except text_format.ParseError as error:
        raise ConfigError(f"{path}: expected a model configuration: {error}") from error


class PlanEncoder:
    """Encodes by `stars_encoder`, padded to its buckets; the caller is a Python model.

    A batch up to the largest bucket's is one call.

    Args:
        pb_utils: the module `triton_python_backend_utils` of the calling model.
        folder: of the encoder in the model repository, with the configuration it is served by.
    Raises:
        ConfigError: the configuration is missing, broken or names no buckets; names the file.
    """

    def __init__(self, pb_utils: Any, folder: Path) -> None:
        path = folder / "config.pbtxt"
        config = read_config(path)
        self._pb_utils, self._name = pb_utils, folder.name
        self._buckets = _buckets(path, config.parameters[BUCKETS].string_value)
        self._inputs: dict[str, GraphInput] = {}
        for value in config.input:
            kind = model_config_pb2.DataType.Name(value.data_type)
            if kind not in DTYPES:
                raise ConfigError(
                    f"{path}: input {value.name}: expected one of {sorted(DTYPES)}, got {kind}"
                )
            try:
                made = GraphInput.of(value.name, np.dtype(DTYPES[kind]), tuple(value.dims))
            except ValueError as error:
                raise ConfigError(f"{path}: {error}") from error
            self._inputs[value.name] = made

    def encode(self, batch: Batch) -> Vectors:
        """h_next and h_gen [B, d_serve] float32.

        Raises:
            ValueError: as `graph_batch` and `smallest` do.
            BackendUnavailable: the encoder answered with an error.
        """
        return by_bucket(graph_batch(batch, self._inputs), self._buckets, self._run)

    def _run(self, inputs: Mapping[str, NDArray[Any]], bucket: Bucket) -> Vectors:
        utils = self._pb_utils
        request = utils.InferenceRequest(
            model_name=self._name,
            requested_output_names=list(OUTPUTS),
            inputs=[utils.Tensor(name, array) for name, array in inputs.items()],
            # Where the plan leaves them otherwise, numpy cannot look.
            preferred_memory=utils.PreferredMemory(utils.TRITONSERVER_MEMORY_CPU),
        )
        response = request.exec()
        if response.has_error():
            raise BackendUnavailable(
                f"model {self._name}: expected vectors of {bucket.batch} x {bucket.length} events, "
                f"got: {response.error().message()}"
            )
        h_next, h_gen = (
            utils.get_output_tensor_by_name(response, name).as_numpy() for name in OUTPUTS
        )
        return h_next, h_gen


def _buckets(path: Path, text: str) -> Sequence[Bucket]:
    try:
        buckets = [Bucket(int(batch), int(length)) for batch, length in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path}: parameters.{BUCKETS}: expected [[batch, length], …], got {text!r}"
        ) from error
    if not buckets:
        raise ConfigError(f"{path}: parameters.{BUCKETS}: expected at least one, got none")
    return buckets
