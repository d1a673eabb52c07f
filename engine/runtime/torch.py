"""The trained model itself as a runtime: kernels on a GPU, the reference on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.errors import BackendUnavailable

from .inputs import FLOATS, INPUTS, Batch, GraphInput, Vectors, graph_batch

if TYPE_CHECKING:  # PyTorch is loaded by who asks for it, never by the serving path
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
