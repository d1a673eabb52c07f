"""The ranker as ONNX graphs, with SARM and without, for any number of candidates."""

import warnings
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.compile.onnx import OPSET, name_nodes, save

from .model import Given, Sarm


def export_sarm(model: Sarm, path: Path) -> None:
    """Writes a graph of one request: `numbers` [N, F], `categories` [N, C], and, as far as the model
    has them, `content` [N, P] projected bank rows and `history` [m, D] bank rows, to `logits` [N, M].

    Args:
        model: trained, on the CPU.
        path: the .onnx file.
    """
    model.eval()
    features = model.ranker.fields
    n, m = torch.export.Dim("candidates"), torch.export.Dim("history")
    wide = sum(model.ranker.widths)
    numbers = sum(len(part) for part in features.parts)
    example: dict[str, Tensor] = {
        "numbers": torch.ones(3, numbers),
        "categories": torch.zeros(3, len(features.tables), dtype=torch.int64),
    }
    shapes: dict[str, object] = {"numbers": {0: n}, "categories": {0: n}}
    if model.ranker.content is not None:
        example["content"], shapes["content"] = torch.ones(3, wide), {0: n}
    if model.sequence is not None:
        example["history"], shapes["history"] = torch.ones(4, model.config.encoder.dim), {0: m}
    with torch.no_grad(), warnings.catch_warnings():
        # Said of every input that shares a dimension, and of torch's own calls.
        warnings.filterwarnings("ignore", message=".*axis name.*will not be used")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated")
        program = torch.onnx.export(
            _Graph(model, tuple(example)).eval(),
            tuple(example.values()),
            dynamo=True,
            dynamic_shapes=(tuple(shapes.values()),),
            input_names=list(example),
            output_names=["logits"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    name_nodes(graph)
    save(graph, path)


def projection(model: Sarm) -> NDArray[np.float32]:
    """[D or 2 D, P] from a bank row to what it adds to the ranker; ValueError without content."""
    if model.ranker.content is None:
        raise ValueError("projection: model: expected one with content of authors, got none")
    found: NDArray[np.float32] = model.ranker.content.weight.detach().numpy().T.copy()
    return found


class _Graph(nn.Module):
    """One request, its parts as arguments."""

    def __init__(self, model: Sarm, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *parts: Tensor) -> Tensor:
        given = dict(zip(self.names, parts, strict=True))
        user = None
        if "history" in given:
            assert self.model.sequence is not None and self.model.ranker.user is not None
            user = self.model.ranker.user(_whole(self.model, given["history"]))
        found: Tensor = self.model.ranker(
            Given(given["numbers"], given["categories"], given.get("content"), user)
        )
        return found


def _whole(model: Sarm, history: Tensor) -> Tensor:
    """`UserSequence` of one history [m, D] without padding, [1, D]."""
    sequence = model.sequence
    assert sequence is not None
    place = model.config.ranker.history - history.shape[0]
    h = torch.cat([sequence.start[None], history + sequence.position[place:]])
    q, k, v = sequence.project(sequence.before(h)).chunk(3, -1)
    weight = torch.softmax(q @ k.T * q.shape[-1] ** -0.5, -1)
    h = h + sequence.out(weight @ v)
    h = h + sequence.down(F.gelu(sequence.up(sequence.between(h))))
    return h.mean(0, keepdim=True)
