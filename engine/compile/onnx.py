"""Exports the encoder to ONNX: one graph that every runtime reads."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from engine.model.stars import Events, Stars

INPUTS = (
    "rows",
    "event_type",
    "hour",
    "weekday",
    "week",
    "day",
    "recency",
    "signals",
    "length",
    "user_categorical",
    "user_numeric",
    "user_known",
)
OUTPUTS = ("h_next", "h_gen")
OPSET = 18


class EncodeGraph(nn.Module):
    """Both vectors of each user's window: h_next at the last item, h_gen at the one read-out."""

    def __init__(self, model: Stars) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        rows: Tensor,
        event_type: Tensor,
        hour: Tensor,
        weekday: Tensor,
        week: Tensor,
        day: Tensor,
        recency: Tensor,
        signals: Tensor,
        length: Tensor,
        user_categorical: Tensor,
        user_numeric: Tensor,
        user_known: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """h_next, h_gen [B, d_serve] of rows [B, L, d_model], fields [B, L], length [B]."""
        events = Events(
            event_type, hour, weekday, week, day, recency, signals,
            user_categorical, user_numeric, user_known,
        )  # fmt: skip
        h_next, h_gen = self.model.encode(rows, events, length[:, None])
        return h_next[:, 0], h_gen[:, 0]


def export_encoder(model: Stars, path: Path) -> None:
    """Writes the `encode` graph with dynamic batch and length, and checks it.

    Args:
        model: trained model, on the CPU.
        path: the .onnx file.
    """
    model.eval()
    batch, length = 2, 5
    example = _example(model, batch, length)
    b, n = torch.export.Dim("batch"), torch.export.Dim("length", max=model.config.window)
    by_event = {0: b, 1: n}
    shapes = {
        name: {0: b} if name in ("length", *OUTPUTS) or name.startswith("user_") else by_event
        for name in INPUTS
    }
    with _without_noise():
        program = torch.onnx.export(
            EncodeGraph(model).eval(),
            tuple(example[name] for name in INPUTS),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))
    graph = onnx.load(str(path))
    onnx.checker.check_model(graph, full_check=True)


@contextmanager
def _without_noise() -> Iterator[None]:
    """Leaves out what the exporter says of every model: dimensions named twice, no torchvision."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*axis name.*will not be used")
            warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
            yield
    finally:
        logger.setLevel(level)


def _example(model: Stars, batch: int, length: int) -> dict[str, Tensor]:
    """Inputs of a small batch, for tracing."""
    ids = torch.zeros(batch, length, dtype=torch.int64)
    n_numeric, n_signals = model.n_user_numeric, model.signal.shape[0]
    return {
        "rows": torch.zeros(batch, length, model.config.d_model),
        **{name: ids.clone() for name in INPUTS[1:7]},
        "signals": torch.zeros(batch, length, n_signals),
        "length": torch.tensor([length, length - 1]),
        "user_categorical": torch.zeros(batch, len(model.user.tables), dtype=torch.int64),
        "user_numeric": torch.zeros(batch, n_numeric),
        "user_known": torch.zeros(batch, n_numeric),
    }
