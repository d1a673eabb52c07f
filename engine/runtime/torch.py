"""The trained model itself as a runtime: kernels on a GPU, the reference on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.errors import BackendUnavailable

from .append import PAST_INPUTS, AppendEncoder, KeptShape
from .inputs import FLOATS, INPUTS, Batch, GraphInput, Vectors, graph_batch

if TYPE_CHECKING:  # PyTorch is loaded by who asks for it, never by the serving path
    from torch import Tensor

    from engine.compile.graph import Precision
    from engine.model.stars import Stars


class TorchEncoder:
    """Runs `Stars.encode`, the reference that every other runtime is compared with.

    Args:
        model: trained; moved to `device`.
        device: "cpu" or "cuda".
        precision: "fp32", or the half type that autocast computes products in.
    Raises:
        BackendUnavailable: torch is not installed, or has no such device.
        ValueError: another precision.
    """

    def __init__(self, model: Stars, device: str = "cpu", precision: str = "fp32") -> None:
        torch = _torch(device)
        halves = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
        if precision not in halves:
            raise ValueError(
                f"TorchEncoder: precision: expected one of {list(halves)}, got {precision!r}"
            )
        self._torch, self._device, self._half = torch, device, halves[precision]
        self._model = model.eval().to(device)
        self._inputs = _model_inputs(model)

    def encode(self, batch: Batch) -> Vectors:
        """h_next and h_gen [B, d_serve] float32; raises ValueError as `graph_batch` does."""
        from engine.model.stars import Events

        torch = self._torch
        inputs = graph_batch(batch, self._inputs)
        given = {k: torch.from_numpy(v).to(self._device) for k, v in inputs.items()}
        rows, ends = given.pop("rows"), given.pop("length")[:, None]
        autocast = torch.autocast(self._device, self._half, enabled=self._half is not None)
        with torch.inference_mode(), autocast:
            vectors = self._model.encode(rows, Events(**given), ends)
        h_next, h_gen = (each[:, 0].float().cpu().numpy() for each in vectors)
        return h_next, h_gen


class TorchAppendEncoder(AppendEncoder):
    """Runs the append graph as a module of PyTorch; what is kept stays on the device.

    Args:
        model: trained, causal.
        device, precision: as of `TorchEncoder`; the precision is that of weights and products.
    Raises:
        BackendUnavailable: torch is not installed, or has no such device.
        ValueError: the model is bidirectional, and keeps nothing.
    """

    def __init__(self, model: Stars, device: str = "cpu", precision: Precision = "fp32") -> None:
        self._torch, self._device = _torch(device), device
        from engine.compile.append import AppendGraph
        from engine.compile.graph import DTYPES

        self._graph = AppendGraph(model, precision).eval().to(device)
        self._dtype = DTYPES[precision]
        config = model.config
        shape = KeptShape(
            config.layers, config.heads, config.d_model // config.heads, config.window + 1
        )
        given = {k: v for k, v in _model_inputs(model).items() if k in self._graph.inputs}
        past = [name for name in PAST_INPUTS if name in self._graph.inputs]
        super().__init__(given, past, shape)

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        zeros: Tensor = self._torch.zeros(shape, dtype=self._dtype, device=self._device)
        return zeros

    def _run(
        self, inputs: Mapping[str, NDArray[Any]], key: Sequence[Any], value: Sequence[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Any, Any]:
        torch = self._torch
        given = {k: torch.from_numpy(v).to(self._device) for k, v in inputs.items()}
        given["rows"] = given["rows"].to(self._dtype)
        given |= {"past_key": torch.stack([*key]), "past_value": torch.stack([*value])}
        with torch.inference_mode():
            h_next, h_gen, *new = self._graph(*(given[name] for name in self._graph.inputs))
        return h_next.cpu().numpy(), h_gen.cpu().numpy(), new[0], new[1]


def _torch(device: str) -> Any:
    try:
        import torch
    except ImportError as error:
        raise BackendUnavailable(
            "runtime torch: expected the package torch, got none; install it with "
            "`pip install torch`"
        ) from error
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendUnavailable(
            f"runtime torch: expected an NVIDIA GPU and a CUDA build of PyTorch for {device}, "
            f"got PyTorch {torch.__version__} without one"
        )
    return torch


def _model_inputs(model: Stars) -> dict[str, GraphInput]:
    """All of INPUTS, in the types that the model takes."""
    widths = {
        "rows": model.config.d_model,
        "signals": model.signal.shape[0],
        "user_categorical": len(model.user.tables),
        "user_numeric": model.n_user_numeric,
        "user_known": model.n_user_numeric,
    }
    float32, int64 = np.dtype(np.float32), np.dtype(np.int64)
    return {
        name: GraphInput(float32 if name in FLOATS else int64, widths.get(name)) for name in INPUTS
    }
